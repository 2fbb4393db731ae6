"""Teachers: a `fingerprint`, and `__call__(batch) -> Outputs`."""

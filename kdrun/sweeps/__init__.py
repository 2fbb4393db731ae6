"""Sweeps: jobs of one command, each in a process of its own, and what has become of them."""

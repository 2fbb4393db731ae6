"""Metrics: one file each. A metric is two pure functions.

    sums(logits, targets, teacher) -> float64 tensor of any shape, or None where the metric does not apply
    result(total) -> {name: value}

`sums` is additive: adding what it gives for every batch, and for every process, gives the metric of the whole. So a
metric never depends on how the samples were dealt into batches. `logits` and `teacher` are `(B, C)` float32, `targets`
`(B,)` class numbers. `TASK` names the task the metric belongs to.
"""

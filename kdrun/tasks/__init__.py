"""Tasks: what kind of answer a model gives, hence which metrics are taken and which one chooses."""

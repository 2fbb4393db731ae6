"""One class per sample. Its metrics are the files of `kdrun/metrics/` whose TASK is `classification`."""

CHOOSING = "accuracy"  # on the validation split; higher is better

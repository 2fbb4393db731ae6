"""Records: run directories and what is in them. The only code that writes results, and no torch but in checkpoints."""

"""`robomimic-frozen doctor`: what is wrong with an installation, a dataset or a checkpoint, and what to do about it."""

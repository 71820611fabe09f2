"""Comparisons of configurations: training, evaluation, report."""

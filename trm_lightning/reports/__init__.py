"""Self-contained reports of runs, analyses and comparisons."""

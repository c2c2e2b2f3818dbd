"""How fast training, scoring and generation are, beside plain code that computes the same."""

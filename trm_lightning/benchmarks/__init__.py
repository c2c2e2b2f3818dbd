"""Speed of training, scoring and generation, compared with plain code that computes the same."""

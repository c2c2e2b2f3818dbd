"""A trained model as a folder that others can use: weights, config, tokenizer, card, graphs."""

"""Train and compare autoregressive and tiny recursive language models, measured exactly."""

"""A trained model writes: logits → token, with a cache."""

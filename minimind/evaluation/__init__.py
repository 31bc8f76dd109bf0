"""Evaluation of a model on held-out text, and the measurements made when training ends."""

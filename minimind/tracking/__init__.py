"""Loggers that mirror the run folder: CSV, TensorBoard and Weights & Biases."""

"""Callbacks: logging, checkpointing, stopping and display, one per file."""

"""Conversion between MiniMind models and Hugging Face folders."""

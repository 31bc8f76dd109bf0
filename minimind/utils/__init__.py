"""Helpers used by every package: errors, atomic file writes, seeds, terminal output, child processes, paths."""

"""A run on disk: its identity, folder, status, checkpoints, metrics file and lock."""

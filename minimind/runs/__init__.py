"""A run: its identity, its folder, its status, its metrics file, its lock."""

"""The commands: those that compose a configuration (Hydra) and those that act on existing files (argparse)."""

"""The verbs: those that compose a configuration (Hydra), and those that act on a run (argparse)."""

"""Training objectives: one protocol, and one file per objective."""

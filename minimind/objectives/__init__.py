"""What is minimised: one protocol, one file an objective."""

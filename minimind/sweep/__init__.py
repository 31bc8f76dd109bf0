"""Sweeps: planning many runs from one command, running them in a queue, and reporting on them."""

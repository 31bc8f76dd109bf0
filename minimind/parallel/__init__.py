"""Distribution of a run over processes and devices."""

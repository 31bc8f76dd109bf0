"""Training: one LightningModule for every objective, its checkpoints and its callbacks."""

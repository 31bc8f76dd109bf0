"""What happens beside the training step, one file each."""

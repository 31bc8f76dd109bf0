"""Text → shards on disk → a deterministic global order of windows → batches."""

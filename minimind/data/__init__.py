"""Text → shards on disk → a pure global order of windows → batches."""

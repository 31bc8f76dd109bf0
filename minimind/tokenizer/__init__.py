"""Text ↔ token ids: a byte-level BPE of one's own, or an existing tokenizer.json."""

"""Text ↔ token ids: a byte-level BPE trained here, or an existing tokenizer.json."""

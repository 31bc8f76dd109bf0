"""Text generation: sampling, decoding from a KV cache, and samples of fixed prompts."""

"""MiniMind: experiments on small language models, from raw text to a table with confidence intervals."""

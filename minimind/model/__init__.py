"""The model in plain PyTorch.

Start with transformer.py for the whole, then read its parts: config → norm → rope → linear → kv_cache → attention →
mlp → moe → losses. These files define what is computed; ops/ has faster kernels for the same formulas.

Shapes throughout the package:
B batch, T tokens per sequence, S key slots (cached tokens included), D hidden size, N query heads, K key/value heads,
H head dim, F feed-forward size, E experts, A active experts per token, V vocabulary size.

A token's *position* is what the position embedding encodes and may restart at 0 in each document. Its *slot* is its
index along S: in the KV cache, or in the sequence when there is no cache.
"""

"""The model in plain PyTorch.

Begin with transformer, for the whole; then its parts: config → norm → rope → precision → linear → kv_cache →
attention → mlp → moe → losses. What they say is what is computed; ops/ holds faster kernels of the same formulas.

Shape legend of the whole package:
B batch, T time, S keys seen (cache included), D hidden, N heads, K key/value heads, H head dim,
F ffn, E experts, A active experts per token, V vocabulary.
"""

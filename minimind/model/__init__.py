"""The model in plain PyTorch.

Begin with transformer, for the whole; then its parts: config → norm → rope → precision → linear → kv_cache →
attention → mlp → grouped_linear → moe → moe_losses.

Shape legend of the whole package:
B batch, T time, S keys seen (cache included), D hidden, N heads, K key/value heads, H head dim,
F ffn, E experts, A active experts a token, V vocabulary.
"""

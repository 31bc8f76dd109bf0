"""The model in plain PyTorch.

Read config → norm → rope → kv_cache → precision → attention → mlp → moe → moe_losses → transformer.

Shape legend of the whole package:
B batch, T time, S keys seen (cache included), D hidden, N heads, K key/value heads, H head dim,
F ffn, E experts, A active experts a token, V vocabulary.
"""

"""The model in plain PyTorch; read config → norm → rope → attention → mlp → moe → transformer.

Shape legend of the whole package:
B batch, T time, S keys seen (cache included), D hidden, N heads, K key/value heads, H head dim,
F ffn, E experts, A active experts a token, V vocabulary.
"""

"""Characters that represent bytes in the tokens of a byte-level BPE, so that tokens are readable strings.

Printable bytes map to themselves, the others to characters from U+0100 on.
Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2, and its published code.
"""

_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_OF_SYMBOL = {chr(byte): byte for byte in _PRINTED}
BYTE_OF_SYMBOL |= {chr(0x100 + n): byte for n, byte in enumerate(sorted(set(range(256)) - set(_PRINTED)))}
UTF8_BYTES = frozenset(range(256)) - {0xC0, 0xC1, *range(0xF5, 0x100)}  # the others never occur in UTF-8

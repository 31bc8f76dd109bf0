"""Other kernels of the model's formulas: the same mathematics, computed another way where that is faster.

Nothing here is needed to follow a token through the model. `choice` connects a formula with its kernels; each kernel
says how closely it agrees with the formula and why it exists. The measurements are in docs/log.md.
"""

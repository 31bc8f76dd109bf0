"""Alternative kernels for the model's formulas: the same mathematics, computed in a way that is faster in places.

Nothing here is needed to follow a token through the model. `choice.py` connects formulas and kernels. Each kernel
documents why it exists and how closely it agrees with its formula; the measurements are in docs/log.md.
"""

"""Objectives of an installed package, as somebody else would add them."""

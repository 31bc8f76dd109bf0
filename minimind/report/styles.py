"""How each arm looks in every panel."""

from collections.abc import Sequence
from typing import Any

from minimind.report.number_arms import numbers_of

# Okabe and Ito's, which the colour-blind tell apart, without the yellow that white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
LINES = ("-", "--", ":")
Style = dict[str, Any]


def styles_of(names: Sequence[str], baseline: str) -> dict[str, Style]:
    """The baseline black and broad; values of one quantity from dark to light; else a colour and a line for each."""
    others = [name for name in names if name != baseline]
    styles: dict[str, Style] = {baseline: {"color": "black", "lw": 3.0}}
    numbers = numbers_of(names)
    if numbers is not None:
        import matplotlib

        scale = matplotlib.colormaps["viridis"]
        places = {
            name: place / (len(names) - 1) for place, (_, name) in enumerate(sorted(zip(numbers, names, strict=True)))
        }
        styles |= {name: {"color": scale(0.9 * places[name]), "lw": 1.7} for name in others}
    else:
        for number, name in enumerate(others):
            line = LINES[number // len(COLOURS) % len(LINES)]
            styles[name] = {"color": COLOURS[number % len(COLOURS)], "ls": line, "lw": 1.7}
    return {name: styles[name] for name in names}

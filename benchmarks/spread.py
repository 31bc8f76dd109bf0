"""What several measurements of one thing come to: three figures, the median in the middle."""

import statistics


def extremes(values: list[float]) -> list[float]:
    """Least, median, greatest; four significant digits."""
    return [float(f"{value:.4g}") for value in (min(values), statistics.median(values), max(values))]


def quartiles(values: list[float]) -> list[float]:
    """Lower quartile, median, upper quartile; four decimals."""
    return [round(value, 4) for value in statistics.quantiles(values if len(values) > 1 else values * 2, n=4)]

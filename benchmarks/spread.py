"""Summarize repeated measurements as three numbers: the median and the range around it."""

import statistics


def extremes(values: list[float]) -> list[float]:
    """Minimum, median and maximum, to four significant digits."""
    return [float(f"{value:.4g}") for value in (min(values), statistics.median(values), max(values))]


def quartiles(values: list[float]) -> list[float]:
    """Lower quartile, median and upper quartile, to four decimals."""
    return [round(value, 4) for value in statistics.quantiles(values if len(values) > 1 else values * 2, n=4)]

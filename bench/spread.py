"""How far the samples of a number lie apart."""

from collections.abc import Sequence
from statistics import quantiles


def middle_half(values: Sequence[float]) -> list[float]:
    """Return the lower and the upper quartile of at least two values."""
    lower, _, upper = quantiles(values, n=4, method="inclusive")
    return [lower, upper]


def percentile_95(values: Sequence[float]) -> float:
    return quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]

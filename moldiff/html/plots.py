"""Histograms as plain numbers for SVG: bars of the file, the outline of the reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 260, 92  # of the plotting area, in the units of the view box
BINS = 26


@dataclass(frozen=True)
class Bar:
    """A rectangle, and what its tooltip says."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """A distribution ready to draw: ``bars`` of the file, ``outline`` (path data) of the reference, ticks of the axis."""

    title: str
    bars: tuple[Bar, ...]
    outline: str
    ticks: tuple[tuple[float, str], ...]  # (x, text)
    summary: str  # medians, for readers and for screen readers


def histogram(title: str, here: Sequence[float], there: Sequence[float] = ()) -> Histogram | None:
    """Shares of molecules over 26 bins, or over the whole numbers; None if the file has no finite value.

    The bins span 99 % of the values of both sides; what lies outside counts in the outermost bins.
    """
    a, b = (np.array([v for v in values if math.isfinite(v)]) for values in (here, there))
    if not len(a):
        return None
    edges = _edges(np.concatenate([a, b]))
    shares = [np.histogram(np.clip(v, edges[0], edges[-1]), edges)[0] / max(1, len(v)) for v in (a, b)]
    scale = HEIGHT / max(share.max() for share in shares)
    x = (edges - edges[0]) / (edges[-1] - edges[0]) * WIDTH
    return Histogram(title, _bars(x, edges, shares, len(b) > 0, scale), _outline(x, shares[1] * scale) if len(b) else "",
                     _ticks(edges), _summary(a, b))  # fmt: skip


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, [0.5, 99.5])
    if np.all(values == np.round(values)) and high - low <= 2 * BINS:
        return np.arange(math.floor(low), math.ceil(high) + 2) - 0.5
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def _bars(x: np.ndarray, edges: np.ndarray, shares: list[np.ndarray], compared: bool, scale: float) -> tuple[Bar, ...]:
    bars = []
    for k, (share, other) in enumerate(zip(*shares, strict=True)):
        where = f"{(edges[k] + edges[k + 1]) / 2:.3g}"
        label = f"{where}: {100 * share:.1f} %" + (f", reference {100 * other:.1f} %" if compared else "")
        height = round(float(share * scale), 1)
        bars.append(
            Bar(round(float(x[k]), 1), round(HEIGHT - height, 1), round(float(x[k + 1] - x[k]), 1), height, label)
        )
    return tuple(bars)


def _outline(x: np.ndarray, heights: np.ndarray) -> str:
    points = [f"M0 {HEIGHT}"]
    for k, height in enumerate(heights):
        points.append(f"V{HEIGHT - height:.1f}H{x[k + 1]:.1f}")
    return "".join([*points, f"V{HEIGHT}"])


def _ticks(edges: np.ndarray) -> tuple[tuple[float, str], ...]:
    """Round numbers, three to seven of them."""
    span = edges[-1] - edges[0]
    power = math.floor(math.log10(span)) - 1
    step = next(s for k in (power, power + 1) for s in (10.0**k, 2 * 10.0**k, 5 * 10.0**k) if span / s <= 6)
    first, last = math.ceil(edges[0] / step), math.floor(edges[-1] / step)
    if step < 1 and edges[0] == round(edges[0]) - 0.5:  # whole numbers have no marks between them
        step, first, last = 1.0, math.ceil(edges[0]), math.floor(edges[-1])
    values = [k * step for k in range(first, last + 1)]
    return tuple((round((v - edges[0]) / span * WIDTH, 1), f"{v:.6g}") for v in values)


def _summary(a: np.ndarray, b: np.ndarray) -> str:
    text = f"median {np.median(a):.3g}"
    return text + (f", reference {np.median(b):.3g}" if len(b) else f" (n = {len(a)})")

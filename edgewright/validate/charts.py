"""Small charts as SVG text: they print sharply, need no script and no network."""

from collections.abc import Sequence
from html import escape
from itertools import pairwise

import numpy as np

__all__ = ["bars", "distribution", "figure", "levels", "timeline", "waterfall"]

_WIDTH = 640
_BINS = 48
_GLYPH = 12.5  # what a wide letter takes on a phone, where report.css has the larger size


def figure(value: float) -> str:
    """Four digits, and all of them before the point: ``0.0177``, ``86,000``."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def bars(rows: Sequence[tuple[str, float, str]], unit: str, title: str) -> str:
    """Horizontal bars: (label, value, CSS class) each; ``title`` is read to those who cannot see."""
    if not rows:
        return ""
    height, left = 34, _room([label for label, _, _ in rows])
    right = _room([f"{figure(value)} {unit}" for _, value, _ in rows])
    longest = max(value for _, value, _ in rows) or 1.0
    parts = []
    for i, (label, value, kind) in enumerate(rows):
        width = max(1.0, (_WIDTH - left - right) * value / longest)
        y = i * height
        parts.append(
            f"{_label(label, left, y + 22)}"
            f'<rect class="{escape(kind)}" x="{left}" y="{y + 6}" width="{width:.1f}" height="22" rx="3"/>'
            f'<text class="value" x="{left + width + 8:.1f}" y="{y + 22}">{figure(value)} {escape(unit)}</text>'
        )
    return _svg(len(rows) * height, title, "".join(parts))


def waterfall(falls: Sequence[tuple[str, float, float, bool]], unit: str, title: str) -> str:
    """Steps from one size to the next: (label, before, after, kept) each, the first from nothing.

    A bar spans what the step took away or added; its end is what is left. A step that was not kept is drawn pale.
    """
    if not falls:
        return ""
    said = [
        f"{figure(after)} {unit}" + (f" ({100 * (after / before - 1):+.1f}%)" if before else "")
        for _, before, after, _ in falls
    ]
    height, left, right = 34, _room([label for label, *_ in falls]), _room(said)
    longest = max(max(before, after) for _, before, after, _ in falls) or 1.0
    scale = (_WIDTH - left - right) / longest
    parts = []
    for i, (label, before, after, kept) in enumerate(falls):
        start, end = sorted((before, after))
        y, kind = i * height, "baseline" if i == 0 else "candidate" if kept else "baseline overlaid"
        parts.append(
            f"{_label(label, left, y + 22)}"
            f'<rect class="{kind}" x="{left + start * scale:.1f}" y="{y + 6}" '
            f'width="{max(1.0, (end - start) * scale):.1f}" height="22" rx="3"/>'
            f'<text class="value" x="{left + end * scale + 8:.1f}" y="{y + 22}">{escape(said[i])}</text>'
        )
        if kept and i + 1 < len(falls):
            at = left + after * scale
            parts.append(f'<line x1="{at:.1f}" y1="{y + 28}" x2="{at:.1f}" y2="{y + height + 6}"/>')
    return _svg(len(falls) * height, title, "".join(parts))


def levels(rows: Sequence[tuple[str, float, float, str]], top: float, unit: str, title: str) -> str:
    """A bar from 0 to a level and a mark at another, for many rows: (label, bar, mark, CSS class) each.

    What lies above ``top`` is drawn there, what lies below 0 as a stub.
    """
    if not rows:
        return ""
    height, left, right = 20, _room([label for label, *_ in rows]), 90
    scale = (_WIDTH - left - right) / top
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = left + share * scale * top
        parts.append(f'<text x="{x:.1f}" y="14" text-anchor="middle">{share * top:.0f}</text>')
        parts.append(f'<line x1="{x:.1f}" y1="20" x2="{x:.1f}" y2="{24 + len(rows) * height}"/>')
    for i, (label, level, mark, kind) in enumerate(rows):
        y = 24 + i * height
        end, at = (left + scale * min(max(value, 0.0), top) for value in (level, mark))
        told = f"{level:.0f} {unit}" if np.isfinite(level) else "exact" if level > 0 else "lost"
        width = max(2.0, end - left)
        parts.append(
            f"{_label(label, left, y + 14)}"
            f'<rect class="{escape(kind)}" x="{left}" y="{y + 4}" width="{width:.1f}" height="12" rx="2"/>'
            f'<rect class="mark" x="{at - 1.5:.1f}" y="{y + 1}" width="3" height="18"/>'
            f'<text class="value" x="{left + scale * top + 10:.1f}" y="{y + 14}">{escape(told)}</text>'
        )
    return _svg(24 + len(rows) * height, title, "".join(parts))


def distribution(series: Sequence[tuple[str, Sequence[float], str]], unit: str, title: str) -> str:
    """Overlaid histograms on one axis, cut at the 99th percentile: (label, values, CSS class) each."""
    shown = [(label, np.asarray(values, np.float64), kind) for label, values, kind in series if len(values)]
    if not shown:
        return ""
    low = min(float(values.min()) for _, values, _ in shown)
    high = max(float(np.percentile(values, 99)) for _, values, _ in shown)
    edges = np.linspace(low, high if high > low else low + 1e-9, _BINS + 1)
    shares = [(label, np.histogram(values, edges)[0] / len(values), kind) for label, values, kind in shown]
    highest = max(float(share.max()) for _, share, _ in shares) or 1.0
    plot, step = 180, _WIDTH / _BINS
    parts = [
        f'<rect class="{escape(kind)} overlaid" x="{i * step:.1f}" y="{plot * (1 - value / highest):.1f}" '
        f'width="{step:.1f}" height="{plot * value / highest:.1f}"/>'
        for _, share, kind in shares
        for i, value in enumerate(share)
        if value > 0
    ]
    parts.append(f'<line x1="0" y1="{plot}" x2="{_WIDTH}" y2="{plot}"/>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        at = low + share * (high - low)
        parts.append(
            f'<text x="{share * _WIDTH:.0f}" y="{plot + 20}" text-anchor="{anchor}">{at:.4g} {escape(unit)}</text>'
        )
    parts.append(_legend([(label, kind) for label, _, kind in shown], 0, plot + 36))
    return _svg(plot + 36 + 22 * len(shown), title, "".join(parts))


def timeline(series: Sequence[tuple[str, Sequence[tuple[str, float]], str]], unit: str, title: str) -> str:
    """One line per series through the same named moments: (label, [(moment, value)], CSS class) each."""
    shown = [(label, points, kind) for label, points, kind in series if points]
    if not shown:
        return ""
    plot, left, right = 150, 60, 60
    values = [value for _, points, _ in shown for _, value in points]
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    moments = [moment for moment, _ in shown[0][1]]
    step = (_WIDTH - left - right) / max(1, len(moments) - 1)
    parts = []
    for _, points, kind in shown:
        places = [(left + i * step, 16 + (plot - 24) * (1 - (v - low) / spread)) for i, (_, v) in enumerate(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="{escape(kind)}" points="{path}"/>')
        parts += [f'<circle class="{escape(kind)}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in places]
    labels, rows = _below(moments, [left + i * step for i in range(len(moments))], plot + 18)
    ends = [(f"{label}: {points[-1][1]:.4g} {unit} at the end", kind) for label, points, kind in shown]
    parts += [labels, _legend(ends, 0, plot + 12 + 22 * rows)]
    return _svg(plot + 12 + 22 * (rows + len(ends)), title, "".join(parts))


def _below(labels: Sequence[str], places: Sequence[float], y: int) -> tuple[str, int]:
    """Labels centred under their places and within the chart; every other one a row lower where two would touch."""
    halves = [len(label) * _GLYPH / 2 for label in labels]
    centres = [min(max(x, half), _WIDTH - half) for x, half in zip(places, halves, strict=True)]
    touching = any(
        second - first < before + after + _GLYPH
        for (first, before), (second, after) in pairwise(zip(centres, halves, strict=True))
    )
    drawn = []
    for i, (label, x) in enumerate(zip(labels, centres, strict=True)):
        row = y + (22 if touching and i % 2 else 0)
        drawn.append(f'<text x="{x:.1f}" y="{row}" text-anchor="middle">{escape(label)}</text>')
    return "".join(drawn), 2 if touching else 1


def _room(labels: Sequence[str]) -> float:
    """What the longest label takes beside a bar, at most two fifths of the chart."""
    return min(0.4 * _WIDTH, max(len(label) for label in labels) * _GLYPH + 16)


def _label(text: str, x: float, y: float) -> str:
    """A label that ends at ``x``; one that would leave the chart is shortened, and shown whole when pointed at."""
    fitting = int((x - 8) / _GLYPH)
    shown = text if len(text) <= fitting else f"{text[: fitting - 1]}…"
    whole = f"<title>{escape(text)}</title>" if shown != text else ""
    return f'<text x="{x - 8:.1f}" y="{y}" text-anchor="end">{whole}{escape(shown)}</text>'


def _legend(entries: Sequence[tuple[str, str]], x: float, y: float) -> str:
    return "".join(
        f'<rect class="{escape(kind)}" x="{x}" y="{y + i * 22}" width="14" height="14" rx="3"/>'
        f'<text x="{x + 20}" y="{y + i * 22 + 12}">{escape(label)}</text>'
        for i, (label, kind) in enumerate(entries)
    )


def _svg(height: int, title: str, content: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f"{content}</svg>"
    )

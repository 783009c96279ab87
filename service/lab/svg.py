"""Draws plots as small SVG files that need no other file."""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH = 680
LABEL_WIDTH = 150
BAR_HEIGHT = 16
LINES_HEIGHT = 200
COLORS = ("#2a6f97", "#e07a5f", "#5b8e7d", "#8e6c8a", "#d9a441", "#5f6c7b", "#b23a48")


def bars(title: str, labels: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Return horizontal bars, grouped by label, with one colour for each series."""
    top = 52 if len(series) > 1 else 30
    group = BAR_HEIGHT * len(series) + 8
    scale = (WIDTH - LABEL_WIDTH - 80) / (max((max(v) for v in series.values()), default=0) or 1)
    parts = _key(list(series)) if len(series) > 1 else []
    for row, label in enumerate(labels):
        y = top + row * group
        middle = y + BAR_HEIGHT * len(series) / 2 + 4
        parts.append(_text(LABEL_WIDTH - 8, middle, label, anchor="end"))
        for index, values in enumerate(series.values()):
            length = values[row] * scale
            bar_y = y + index * BAR_HEIGHT
            parts.append(
                f'<rect x="{LABEL_WIDTH}" y="{bar_y}" width="{length:.1f}"'
                f' height="{BAR_HEIGHT - 2}" fill="{_color(index)}"/>'
            )
            parts.append(_text(LABEL_WIDTH + length + 5, bar_y + 12, format_number(values[row])))
    return _picture(title, top + len(labels) * group + 4, parts)


def lines(
    title: str, step: float, series: Mapping[str, Sequence[float]], *, shares_scale: bool = True
) -> str:
    """Return lines over time, with a value every `step` seconds.

    Without `shares_scale` each series has its own scale, up to its highest value, which the key
    names. This is for quantities of different units.
    """
    longest = max((len(values) for values in series.values()), default=0)
    highest = {name: max(values, default=0) or 1 for name, values in series.items()}
    if shares_scale:
        highest = dict.fromkeys(series, max(highest.values(), default=1))
    across = (WIDTH - 80) / max(1, longest - 1)
    bottom = LINES_HEIGHT - 24
    parts = _key(
        [name if shares_scale else f"{name}: to {format_number(highest[name])}" for name in series]
    )
    parts.append(f'<path d="M60 56V{bottom}H{WIDTH - 10}" stroke="#999" fill="none"/>')
    if shares_scale:
        parts.append(_text(54, 64, format_number(max(highest.values(), default=1)), anchor="end"))
    parts.append(_text(54, bottom, "0", anchor="end"))
    parts.append(_text(WIDTH - 10, bottom + 16, f"{longest * step:.1f} s", anchor="end"))
    for index, (name, values) in enumerate(series.items()):
        up = (bottom - 60) / highest[name]
        points = " ".join(
            f"{60 + at * across:.1f},{bottom - value * up:.1f}" for at, value in enumerate(values)
        )
        parts.append(f'<polyline points="{points}" stroke="{_color(index)}" fill="none"/>')
    return _picture(title, LINES_HEIGHT, parts)


def format_number(value: float) -> str:
    """Return a number with three significant digits or all digits before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _picture(title: str, height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}"'
        f' width="{WIDTH}" font-family="system-ui, sans-serif" font-size="12" fill="#222">'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>'
    )
    return "\n".join([head, _text(8, 18, title, weight="bold"), *parts, "</svg>"])


def _key(names: Sequence[str]) -> list[str]:
    parts = []
    x = 8
    for index, name in enumerate(names):
        parts.append(f'<rect x="{x}" y="32" width="10" height="10" fill="{_color(index)}"/>')
        parts.append(_text(x + 14, 41, name))
        x += 28 + 7 * len(name)
    return parts


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]

"""Colours and type of the charts, light and dark. Applied per chart, never globally."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["DARK", "FAINT", "GOODS", "KIND_COLOURS", "LIGHT", "SIGNS", "STAGES"]

_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

# Okabe and Ito's colours: told apart with every common colour blindness.
_CATEGORIES: Final = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f",
)  # fmt: skip
KIND_COLOURS: Final = {
    "head": "#0072b2",
    "mlp": "#d55e00",
    "embed": "#009e73",
    "pos": "#cc79a7",
    "joint": "#e69f00",
}

SIGNS: Final = {"earns": "#3f8fcb", "loses": "#e07b28"}
"""What a supplier does by a flow: positive, negative."""

GOODS: Final = ("#f0c83c", "#d2708f", "#8457c9")
"""From final goods, sold to the logits, to capital goods, sold to components."""

STAGES: Final = ("#e0a100", "#d2708f", "#8457c9", "#3f8fcb", "#2a9d8f")
"""From the stage that sells to the logits to those far from them."""

FAINT: Final = "#8a94a3"
"""A grey that shows on white and on near-black."""


def _theme(
    ink: str, muted: str, grid: str, background: str, diverging: tuple[str, ...]
) -> dict[str, Any]:
    text = {"labelColor": muted, "titleColor": ink, "labelFontSize": 11, "titleFontSize": 12}
    return {
        "background": background,
        "font": _FONT,
        "axis": {
            **text,
            "gridColor": grid,
            "domainColor": muted,
            "tickColor": muted,
            "titleFontWeight": "normal",
            "labelOverlap": "greedy",
        },
        "legend": {
            **text,
            "titleFontWeight": "normal",
            "symbolSize": 80,
            "symbolBaseFillColor": muted,
            "symbolBaseStrokeColor": muted,
            "labelLimit": 260,
            "titleLimit": 320,
        },
        "title": {
            "color": ink,
            "fontSize": 13,
            "anchor": "start",
            "frame": "group",
            "fontWeight": 600,
        },
        "header": {"labelColor": ink, "labelFontSize": 12, "labelFontWeight": 600},
        "view": {"stroke": None},
        "text": {"color": ink},
        "range": {
            "category": list(_CATEGORIES),
            "diverging": list(diverging),
        },
    }


# Orange loses, blue earns. The middle is near the page, so that nothing looks like nothing, and the
# contrast grows towards both ends.
LIGHT: Final = _theme(
    "#1c2430", "#59636f", "#e6e9ee", "white",
    ("#a63d00", "#d9661f", "#f0a868", "#f4f5f7", "#74add1", "#3178b5", "#08468b"),
)  # fmt: skip
DARK: Final = _theme(
    "#e8ebf0", "#a3adba", "#303844", "#161b22",
    ("#ffc08a", "#e8843c", "#8a4a22", "#252c36", "#2b628c", "#56a0d3", "#b5e1ff"),
)  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""Matplotlib figures as inline SVG: the same bytes for the same data, readable on a light and on a dark page."""

import contextlib
import io
import re
from collections.abc import Iterator

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's colours, safe for colour-blind readers (https://jfly.uni-koeln.de/color/).
INK, FAINT, GRID, PAPER = "#1f2328", "#5c6670", "#dfe3e8", "#fefefe"
RUNTIME_COLOURS = {
    "pytorch": "#d55e00",
    "onnxruntime": "#0072b2",
    "openvino": "#009e73",
    "sparse": "#cc79a7",
    "openvino-sparse": "#e69f00",
}
OTHER_COLOUR = "#8a6d00"
# The colours of the page's verdicts.
VERDICT_COLOURS = {"pass": "#0b6e4f", "fail": "#b42318", "inconclusive": "#8a5a00"}

# Each colour is written as a CSS variable with the colour as fallback; the page may change it in dark mode.
_VARIABLES = {
    INK: "--plot-ink",
    FAINT: "--plot-faint",
    GRID: "--plot-grid",
    PAPER: "--plot-paper",
    OTHER_COLOUR: "--plot-other",
    **{colour: f"--plot-{runtime}" for runtime, colour in RUNTIME_COLOURS.items()},
    **dict(zip(VERDICT_COLOURS.values(), ("--good", "--bad", "--warn"), strict=True)),
}

_STYLE = {
    "svg.hashsalt": "sparse-deploy",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label may contain a dollar sign
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "sans-serif"],
    "font.size": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}


@contextlib.contextmanager
def plot_style() -> Iterator[None]:
    """The style of every plot, during a block; the process's settings are restored afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, without pyplot's global state."""
    return Figure(figsize=(width, height), layout="constrained")


def to_inline_svg(figure: Figure, name: str) -> str:
    """Turn a figure into an ``<svg>`` element for an HTML page.

    Args:
        figure: a figure made inside :func:`plot_style`.
        name: prefix of every id in the element, so that several plots can share a page.
    """
    buffer = io.StringIO()
    # Without metadata matplotlib omits its RDF block, which contains a date and links.
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = re.sub(rf"((?:fill|stroke): ){colour}", rf"\1var({variable}, {colour})", text)
    # The element scales with the page: keep the viewBox, remove the fixed size in points.
    return re.sub(r'^<svg([^>]*?) width="[^"]*"', r'<svg role="img"\1', _without_height(text), count=1).strip()


def _without_height(text: str) -> str:
    return re.sub(r'^(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)

"""A white page in pixels to draw a figure on: boxes, arrows and text, large enough for a narrow screen."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from numpy.typing import NDArray

WIDTH = 800
"""Width of a page in pixels. Text of size 26 is 13 pixels high on a screen that is 400 pixels wide."""

INK, RED = "#1a1a1a", "#b3261e"
HOSPITAL, COORDINATOR, SHARED, PAPER = "#dcebf7", "#fde9d4", "#ececec", "#ffffff"
"""Colours of text, of the trust boundary, and of areas that belong to a hospital, the coordinator or both."""

_POINTS = 0.72  # of a pixel, at 100 pixels an inch

Point = tuple[float, float]


class Canvas:
    """A page of `WIDTH` × `height` pixels, from its upper left corner."""

    def __init__(self, height: int) -> None:
        self.height = height
        self._figure = Figure(figsize=(WIDTH / 100, height / 100), facecolor=PAPER)
        self.axes = self._figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        self.axes.set_axis_off()

    def area(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Fill a rectangle behind everything else."""
        self.axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="none", zorder=0))

    def box(self, x: float, y: float, width: float, height: float, label: str, colour: str = PAPER) -> None:
        """Draw a box with its label in the middle."""
        style = "round,pad=0,rounding_size=10"
        self.axes.add_patch(
            FancyBboxPatch((x, y), width, height, style, facecolor=colour, edgecolor=INK, linewidth=1.3, zorder=3)
        )
        self.text(x + width / 2, y + height / 2, label, weight="bold")

    def text(
        self,
        x: float,
        y: float,
        label: str,
        size: float = 26,
        colour: str = INK,
        align: str = "center",
        weight: str = "normal",
    ) -> None:
        """Write a label, which is centred vertically."""
        self.axes.text(
            x, y - size / 10, label, fontsize=size * _POINTS, color=colour, ha=align, va="center_baseline",
            weight=weight, linespacing=1.25, zorder=4,
        )  # fmt: skip

    def arrow(
        self, start: Point, end: Point, bend: float = 0, colour: str = INK, width: float = 1.8, name: str | None = None
    ) -> None:
        """Draw an arrow, curved where `bend` is not 0; `name` becomes its id in the file."""
        self.axes.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle="-|>", mutation_scale=16, shrinkA=0, shrinkB=0, color=colour, linewidth=width,
                connectionstyle=f"arc3,rad={bend}", zorder=2, gid=name,
            )
        )  # fmt: skip

    def boundary(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        """Draw a part of the trust boundary, a dashed line."""
        self.axes.plot(x, y, color=RED, linewidth=2.2, dashes=(5, 3), zorder=1)

    def picture(self, x: float, y: float, side: float, values: NDArray[np.float64], behind: int = 0) -> None:
        """Draw a square of values in [−1, 1], blue below 0 and red above."""
        self.axes.imshow(
            values, cmap="coolwarm", vmin=-1, vmax=1, extent=(x, x + side, y + side, y), interpolation="nearest",
            aspect="auto", zorder=3 + behind / 10,
        )  # fmt: skip
        self.axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=INK, zorder=3.05 + behind / 10))
        self.axes.set(xlim=(0, WIDTH), ylim=(self.height, 0))

    def save(self, file: Path, description: str) -> None:
        """Write the page as SVG; the same drawing gives the same bytes."""
        with matplotlib.rc_context({"svg.hashsalt": file.stem, "svg.fonttype": "path"}):
            self._figure.savefig(file, format="svg", metadata={"Description": description, "Date": None})

    def save_png(self, file: Path) -> None:
        """Write the page as PNG, to look at."""
        self._figure.savefig(file, format="png", dpi=100)

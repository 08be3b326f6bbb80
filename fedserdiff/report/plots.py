"""Pictures of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedserdiff.data.releases import REGIONS

matplotlib.use("Agg")

_COLOURS = {"tc": "#e66101", "wt": "#5e3c99", "et": "#ffd92f"}


@dataclass(frozen=True)
class Example:
    """One slice of one test case: `image` (X, Y), and masks or maps of shape (3, X, Y).

    `error_map` is the teacher's Ê, in [−1, 1]; None where the run has no teacher.
    """

    site: str
    case: str
    image: NDArray[np.floating]
    truth: NDArray[np.floating]
    coarse: NDArray[np.floating]
    refined: NDArray[np.floating]
    error_map: NDArray[np.floating] | None
    dice: dict[str, float]


def plot_examples(examples: Sequence[Example], title: str, file: Path) -> None:
    """Draw one row a site: MRI, truth, coarse and refined mask, and the teacher's error map of the whole tumour."""
    columns = ["FLAIR", "truth", "coarse", "refined", "teacher's error map (WT)"]
    figure = Figure(figsize=(2.6 * len(columns), 3.1 * len(examples) + 0.8), layout="constrained")
    axes = figure.subplots(len(examples), len(columns), squeeze=False)
    shown = None
    for row, example in zip(axes, examples, strict=True):
        for axis, column in zip(row, columns, strict=True):
            axis.set_axis_off()
            if example is examples[0]:
                axis.set_title(column)
            brain = np.where(example.image == 0, example.image.min(), example.image)  # black around the brain
            axis.imshow(brain.T, cmap="gray", origin="lower", interpolation="nearest")
        for axis, name in zip(row[1:4], ("truth", "coarse", "refined"), strict=True):
            _draw_masks(axis, getattr(example, name))
            if name in example.dice:
                axis.text(
                    0.5,
                    -0.02,
                    f"Dice {100 * example.dice[name]:.1f} %",
                    transform=axis.transAxes,
                    ha="center",
                    va="top",
                )
        if example.error_map is None:
            row[4].text(0.5, 0.5, "no teacher", transform=row[4].transAxes, ha="center", color="white")
        else:
            wt = REGIONS.index("wt")
            shown = row[4].imshow(
                example.error_map[wt].T, cmap="coolwarm", vmin=-1, vmax=1, origin="lower", interpolation="nearest"
            )
        row[0].text(
            -0.04,
            0.5,
            f"{example.site}\n{example.case}",
            transform=row[0].transAxes,
            rotation=90,
            ha="right",
            va="center",
        )
    if shown is not None:
        figure.colorbar(shown, ax=axes[:, 4].tolist(), shrink=0.6, label="− remove · add +")
    handles = [matplotlib.patches.Patch(color=_COLOURS[r], label=r.upper()) for r in REGIONS]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(REGIONS), frameon=False)
    figure.suptitle(title)
    figure.savefig(file, dpi=110)


def _draw_masks(axis: "matplotlib.axes.Axes", masks: NDArray[np.floating]) -> None:
    """Fill the regions from the largest to the smallest."""
    for region in ("wt", "tc", "et"):
        mask = masks[REGIONS.index(region)] >= 0.5
        colour = matplotlib.colors.to_rgba(_COLOURS[region], 0.75)
        axis.imshow(np.where(mask.T[..., None], colour, (0, 0, 0, 0)), origin="lower", interpolation="nearest")

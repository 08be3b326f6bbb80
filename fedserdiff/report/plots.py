"""Pictures of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedserdiff.files import write_whole
from fedserdiff.report.labels import in_capitals

matplotlib.use("Agg")

_COLOURS = ("#e66101", "#5e3c99", "#ffd92f", "#1b9e77", "#e7298a", "#66a61e", "#377eb8", "#999999")  # by region


@dataclass(frozen=True)
class Example:
    """One slice of one test case: `image` (X, Y) of one `modality`, and masks or maps of shape (regions, X, Y).

    `error_map` is the teacher's Ê, in [−1, 1]; None where the run has no teacher. `painting_order` has the numbers of
    the regions, the largest first.
    """

    site: str
    case: str
    modality: str
    regions: tuple[str, ...]
    painting_order: tuple[int, ...]
    image: NDArray[np.floating]
    truth: NDArray[np.floating]
    coarse: NDArray[np.floating]
    refined: NDArray[np.floating]
    error_map: NDArray[np.floating] | None
    dice: dict[str, float]


def plot_examples(examples: Sequence[Example], title: str, file: Path) -> None:
    """Draw one row a site: MRI, truth, coarse and refined mask, and the teacher's error map of the whole tumour."""
    first = examples[0]
    largest = in_capitals(first.regions[first.painting_order[0]])
    columns = [in_capitals(first.modality), "truth", "coarse", "refined", f"teacher's error map ({largest})"]
    figure = Figure(figsize=(2.6 * len(columns), 3.1 * len(examples) + 0.8), layout="constrained")
    axes = figure.subplots(len(examples), len(columns), squeeze=False)
    shown = None
    for row, example in zip(axes, examples, strict=True):
        for axis, column in zip(row, columns, strict=True):
            axis.set_axis_off()
            if example is first:
                axis.set_title(column)
            _draw_brain(axis, example)
        for axis, name in zip(row[1:4], ("truth", "coarse", "refined"), strict=True):
            draw_masks(axis, getattr(example, name), example.painting_order)
            if name in example.dice:
                _write_dice(axis, example.dice[name])
        if example.error_map is None:
            row[4].text(0.5, 0.5, "no teacher", transform=row[4].transAxes, ha="center", color="white")
        else:
            whole = example.error_map[example.painting_order[0]]
            shown = row[4].imshow(whole.T, cmap="coolwarm", vmin=-1, vmax=1, origin="lower", interpolation="nearest")
        _write_name(row[0], example)
    if shown is not None:
        figure.colorbar(shown, ax=axes[:, 4].tolist(), shrink=0.6, label="− remove · add +")
    _finish(figure, first, title, file)


def plot_methods(methods: Mapping[str, Sequence[Example]], title: str, file: Path) -> None:
    """Draw one row a site: MRI, truth, and the refined mask of every method's student.

    Parameters
    ----------
    methods : mapping of str to sequence of Example
        By method, the same cases in the same order.
    """
    cases = next(iter(methods.values()))
    columns = [in_capitals(cases[0].modality), "truth", *methods]
    figure = Figure(figsize=(2.2 * len(columns), 2.7 * len(cases) + 0.8), layout="constrained")
    axes = figure.subplots(len(cases), len(columns), squeeze=False)
    for number, (row, case) in enumerate(zip(axes, cases, strict=True)):
        for axis, column in zip(row, columns, strict=True):
            axis.set_axis_off()
            _draw_brain(axis, case)
            if number == 0:
                axis.set_title(column)
        draw_masks(row[1], case.truth, case.painting_order)
        for axis, examples in zip(row[2:], methods.values(), strict=True):
            draw_masks(axis, examples[number].refined, case.painting_order)
            _write_dice(axis, examples[number].dice["refined"])
        _write_name(row[0], case)
    _finish(figure, cases[0], title, file)


def _draw_brain(axis: "matplotlib.axes.Axes", example: Example) -> None:
    brain = np.where(example.image == 0, example.image.min(), example.image)  # black around the brain
    axis.imshow(brain.T, cmap="gray", origin="lower", interpolation="nearest")


def _write_dice(axis: "matplotlib.axes.Axes", dice: float) -> None:
    text = f"Dice {100 * dice:.1f} %"
    axis.text(0.5, -0.02, text, transform=axis.transAxes, ha="center", va="top")


def _write_name(axis: "matplotlib.axes.Axes", example: Example) -> None:
    name = f"{example.site}\n{example.case}"
    axis.text(-0.04, 0.5, name, transform=axis.transAxes, rotation=90, ha="right", va="center")


def _finish(figure: Figure, example: Example, title: str, file: Path) -> None:
    handles = [
        matplotlib.patches.Patch(color=colour_of(number), label=in_capitals(region))
        for number, region in enumerate(example.regions)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(title)
    write_whole(file, lambda opened: figure.savefig(opened, dpi=110, format="png"))


def colour_of(region: int) -> str:
    """Return the colour of the region with this number."""
    return _COLOURS[region % len(_COLOURS)]


def draw_masks(
    axis: "matplotlib.axes.Axes",
    masks: NDArray[np.floating] | NDArray[np.bool_],
    painting_order: Sequence[int],
    opacity: float = 0.75,
    aspect: float = 1.0,
) -> None:
    """Fill regions, where `masks` of shape (regions, X, Y) are at least ½, in this order: the largest first."""
    for number in painting_order:
        colour = matplotlib.colors.to_rgba(colour_of(number), opacity)
        filled = np.where((masks[number] >= 0.5).T[..., None], colour, (0, 0, 0, 0))
        axis.imshow(filled, origin="lower", interpolation="nearest", aspect=aspect)

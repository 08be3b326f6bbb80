"""Pictures of example cases from a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedserdiff.files import write_whole
from fedserdiff.report.colours import REGION_COLOURS
from fedserdiff.report.examples import Example, large_before_small


def plot_examples(examples: Sequence[Example], title: str, file: Path) -> None:
    """Draw one row for each site: scan, truth, coarse and refined mask, and the teacher's error map of the largest
    region.

    Each row shows the axial slice with the most true voxels.
    """
    order = large_before_small(examples)
    largest = examples[0].regions[order[0]]
    columns = [examples[0].modality, "truth", "coarse", "refined", f"teacher's error map ({largest})"]
    figure = Figure(figsize=(2.6 * len(columns), 3.1 * len(examples) + 0.8), layout="constrained")
    axes = figure.subplots(len(examples), len(columns), squeeze=False)
    shown = None
    for row, example in zip(axes, examples, strict=True):
        for axis, column in zip(row, columns, strict=True):
            axis.set_axis_off()
            if example is examples[0]:
                axis.set_title(column)
            _draw_brain(axis, example)
        for axis, name in zip(row[1:4], ("truth", "coarse", "refined"), strict=True):
            _draw_masks(axis, example, getattr(example, name), order)
            if name in example.dice:
                _write_dice(axis, example.dice[name])
        if example.teacher_error_map is None:
            row[4].text(0.5, 0.5, "no teacher", transform=row[4].transAxes, ha="center", color="white")
        else:
            errors = example.teacher_error_map[order[0], ..., example.centre[2]].T
            shown = row[4].imshow(errors, cmap="coolwarm", vmin=-1, vmax=1, origin="lower", interpolation="nearest")
        _write_name(row[0], example)
    if shown is not None:
        figure.colorbar(shown, ax=axes[:, 4].tolist(), shrink=0.6, label="− remove · add +")
    _finish(figure, examples[0].regions, title, file)


def plot_methods(methods: Mapping[str, Sequence[Example]], title: str, file: Path) -> None:
    """Draw one row for each site, as `plot_examples`: scan, truth, and the refined mask of every method's student.

    Parameters
    ----------
    methods : mapping of str to sequence of Example
        Examples by method: the same cases in the same order.
    """
    cases = next(iter(methods.values()))
    order = large_before_small(cases)
    columns = [cases[0].modality, "truth", *methods]
    figure = Figure(figsize=(2.2 * len(columns), 2.7 * len(cases) + 0.8), layout="constrained")
    axes = figure.subplots(len(cases), len(columns), squeeze=False)
    for number, (row, case) in enumerate(zip(axes, cases, strict=True)):
        for axis, column in zip(row, columns, strict=True):
            axis.set_axis_off()
            _draw_brain(axis, case)
            if number == 0:
                axis.set_title(column)
        _draw_masks(row[1], case, case.truth, order)
        for axis, examples in zip(row[2:], methods.values(), strict=True):
            _draw_masks(axis, case, examples[number].refined, order)
            _write_dice(axis, examples[number].dice["refined"])
        _write_name(row[0], case)
    _finish(figure, cases[0].regions, title, file)


def _draw_brain(axis: "matplotlib.axes.Axes", example: Example) -> None:
    image = example.image[..., example.centre[2]]
    brain = np.where(image == 0, image.min(), image)  # black outside the brain
    axis.imshow(brain.T, cmap="gray", origin="lower", interpolation="nearest")


def _write_dice(axis: "matplotlib.axes.Axes", dice: float) -> None:
    text = f"Dice {100 * dice:.1f} %"
    axis.text(0.5, -0.02, text, transform=axis.transAxes, ha="center", va="top")


def _write_name(axis: "matplotlib.axes.Axes", example: Example) -> None:
    name = f"{example.site}\n{example.case}"
    axis.text(-0.04, 0.5, name, transform=axis.transAxes, rotation=90, ha="right", va="center")


def _finish(figure: Figure, regions: Sequence[str], title: str, file: Path) -> None:
    named = zip(regions, REGION_COLOURS, strict=False)
    handles = [matplotlib.patches.Patch(color=colour, label=region) for region, colour in named]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(title)
    write_whole(file, lambda opened: figure.savefig(opened, dpi=110, format="png"))


def _draw_masks(axis: "matplotlib.axes.Axes", example: Example, masks: NDArray[np.bool_], order: Sequence[int]) -> None:
    """Fill the regions from the largest to the smallest."""
    draw_masks(axis, masks[..., example.centre[2]], order)


def draw_masks(
    axis: "matplotlib.axes.Axes",
    masks: NDArray[np.bool_],
    order: Sequence[int],
    opacity: float = 0.75,
    aspect: float = 1.0,
) -> None:
    """Fill the regions of masks of shape (regions, X, Y) in the given order."""
    for region in order:
        colour = matplotlib.colors.to_rgba(REGION_COLOURS[region], opacity)
        filled = np.where(masks[region].T[..., None], colour, (0, 0, 0, 0))
        axis.imshow(filled, origin="lower", interpolation="nearest", aspect=aspect)

"""Picture of a segmentation over its scan."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from fedserdiff.files import write_whole
from fedserdiff.report.colours import REGION_COLOURS
from fedserdiff.report.plots import draw_masks
from fedserdiff.report.wording import in_capitals
from fedserdiff.segmenter import Segmentation
from fedserdiff.text import readable

_VIEWS = (("sagittal", 0), ("coronal", 1), ("axial", 2))


def plot_overlay(segmentation: Segmentation, name: str, file: Path) -> None:
    """Draw three orthogonal slices, each with the largest area of the regions, or the middle slices if all are empty.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    scan, convention = segmentation.scan, segmentation.convention
    masks = convention.written(segmentation.probabilities)
    window = np.percentile(scan.voxels[scan.voxels != 0], (1, 99))
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axis, (view, along) in zip(figure.subplots(1, 3), _VIEWS, strict=True):
        others = tuple(a for a in range(3) if a != along)
        filled = masks.any(0).sum(others)
        place = int(np.argmax(filled)) if filled.any() else scan.shape[along] // 2
        spacing = [scan.spacing_mm[a] for a in others]
        axis.imshow(
            np.take(scan.voxels, place, along).T, cmap="gray", origin="lower", vmin=window[0], vmax=window[1],
            aspect=spacing[1] / spacing[0],
        )  # fmt: skip
        slices: NDArray[np.bool_] = np.take(masks, place, along + 1)
        draw_masks(axis, slices, convention.painting_order, opacity=0.45, aspect=spacing[1] / spacing[0])
        axis.set_title(f"{view}, voxel {place + 1} of {scan.shape[along]}")
        axis.set_axis_off()
    named = zip(convention.regions, REGION_COLOURS, strict=False)
    handles = [Patch(color=colour, label=in_capitals(region)) for region, colour in named]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(f"{readable(name)}, over {in_capitals(convention.modalities[0])}")
    write_whole(file, lambda opened: figure.savefig(opened, dpi=120, format="png"))

"""Page for scrolling through example cases slice by slice: one self-contained HTML file.

NiiVue (`assets/niivue.LICENSE.txt`) draws the volumes; the page contains NiiVue and the volumes.
"""

import base64
import gzip
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from fedserdiff.files import write_whole
from fedserdiff.report.colours import REGION_COLOURS
from fedserdiff.report.examples import Example, large_before_small
from fedserdiff.report.page import template

VOLUMES = "volumes.html"
"""File name of the page."""

_MOST_VOXELS = 2**20
"""Largest number of voxels of a case. On a finer grid, only every second or third voxel along each axis is shown."""

_BRIGHTEST = 99.5  # percentile of the brain's voxels shown as white; bright vessels would darken everything else
_ERROR_STEPS = 127  # steps of an error map from 0 to 1


def write_volumes(
    methods: Mapping[str, Sequence[Example]], facts: str, phantom: bool, leak: str | None, file: Path
) -> None:
    """Write the page that `render_volumes` returns.

    Raises
    ------
    ValueError
        As in `render_volumes`.
    OSError
        If the file cannot be written.
    """
    page = render_volumes(methods, facts, phantom, leak)
    write_whole(file, lambda opened: opened.write(page.encode()))


def render_volumes(methods: Mapping[str, Sequence[Example]], facts: str, phantom: bool, leak: str | None) -> str:
    """Return the page as HTML; equal input gives equal text.

    A scan is shown in 256 greys. Masks are integers in which bit r is region r; error maps have steps of 1/127.

    Parameters
    ----------
    methods : mapping of str to sequence of Example
        Examples by method: the same cases in the same order, all with the same regions.
    facts : str
        Data, seed and stage in words.
    phantom : bool
        Whether the scans are synthetic.
    leak : str or None
        Warning to show if scored patients were trained on.

    Raises
    ------
    ValueError
        If there are more regions than distinct colours.
    """
    thin = {name: [_thinned(example) for example in examples] for name, examples in methods.items()}
    shown = next(iter(thin.values()), [])
    regions = shown[0].regions if shown else ()
    if len(regions) > len(REGION_COLOURS):
        raise ValueError(f"{len(regions)} regions, but only {len(REGION_COLOURS)} can be told apart by colour")
    taught = any(_of_teacher(example) is not None for examples in thin.values() for example in examples)
    volumes = _Volumes()
    layers = {name: [_layers(example, taught, volumes) for example in examples] for name, examples in thin.items()}
    data = {
        "regions": [{"name": n, "colour": c} for n, c in zip(regions, REGION_COLOURS, strict=False)],
        "order": large_before_small(shown),
        "cases": [_case(example, volumes) for example in shown],
        "methods": layers,
        "volumes": volumes.encoded,
    }
    page = template("volumes.html").render(
        data=data,
        methods=list(methods),
        layers=[layer["name"] for layer in layers[next(iter(layers))][0]] if shown else [],
        facts=facts,
        phantom=phantom,
        leak=leak,
        niivue=Markup(_asset("niivue.umd.js")),
        licence=_asset("niivue.LICENSE.txt"),
    )
    return page.lstrip()  # a page must begin with its doctype


class _Volumes:
    """Volumes as base64 of gzip-compressed NIfTI, without duplicates."""

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self._places: dict[str, int] = {}

    def add(self, voxels: NDArray[Any], example: Example, slope: float = 1.0, least: float = 0.0) -> int:
        """Store integers that represent `slope` × integer + `least`; return their index among the volumes."""
        image = nib.Nifti1Image(voxels, np.diag([*example.spacing_mm, 1.0]))
        image.header.set_slope_inter(slope, least)
        image.header.set_xyzt_units("mm")
        text = base64.b64encode(gzip.compress(image.to_bytes(), mtime=0)).decode()
        if text not in self._places:
            self._places[text] = len(self.encoded)
            self.encoded.append(text)
        return self._places[text]


def _thinned(example: Example) -> Example:
    """Return the case, downsampled by striding if it has more voxels than a page may hold."""
    step = next(step for step in itertools.count(1) if example.image[::step, ::step, ::step].size <= _MOST_VOXELS)
    every: Any = (..., *[slice(None, None, step)] * 3)
    x, y, z = (step * mm for mm in example.spacing_mm)
    taught = example.teacher_error_map
    return replace(
        example,
        spacing_mm=(x, y, z),
        image=example.image[every],
        truth=example.truth[every],
        coarse=example.coarse[every],
        refined=example.refined[every],
        error_map=example.error_map[every],
        teacher_error_map=None if taught is None else taught[every],
    )


def _case(example: Example, volumes: _Volumes) -> dict[str, Any]:
    image = example.image.astype(np.float32)
    brain = image[image != 0] if image.any() else np.zeros(1, np.float32)
    least, most, bright = (float(value) for value in np.percentile(brain, (0, 100, _BRIGHTEST)))
    slope = (most - least) / 255 or 1.0
    greys = np.where(image == 0, 0, np.rint((image - least) / slope)).astype(np.uint8)  # black outside the brain
    spacing = " × ".join(f"{mm:.3g}" for mm in example.spacing_mm)
    return {
        "site": example.site,
        "case": example.case,
        "modality": example.modality,
        "grid": f"{' × '.join(map(str, image.shape))} voxels of {spacing} mm",
        "scan": volumes.add(greys, example, slope, least),
        "window": [least, bright if bright > least else least + 1],
        "shape": image.shape,
        "spacing": example.spacing_mm,
        "centre": example.centre,
    }


def _layers(example: Example, taught: bool, volumes: _Volumes) -> list[dict[str, Any]]:
    """Return the layers that can be shown over the scan, in order."""
    layers = [
        {"name": name, "kind": "masks", "note": note, "volumes": [volumes.add(_bits(masks), example)]}
        for name, masks, note in (
            ("Truth", example.truth, ""),
            ("Coarse mask", example.coarse, _dice(example, "coarse")),
            ("Refined mask", example.refined, _dice(example, "refined")),
        )
    ]
    layers.append(_errors("Student's error map", example, example.error_map, volumes))
    if (of_teacher := _of_teacher(example)) is not None:
        layers.append(_errors("Teacher's error map", example, of_teacher, volumes))
    elif taught:
        why = "no teacher" if example.teacher_error_map is None else "the teacher is this student"
        layers.append({"name": "Teacher's error map", "kind": "errors", "note": why, "volumes": []})
    return layers


def _of_teacher(example: Example) -> NDArray[np.floating] | None:
    """Return the teacher's error map, or None if there is no teacher or it equals the student shown."""
    maps = example.teacher_error_map
    return None if maps is None or np.array_equal(maps, example.error_map) else maps


def _errors(name: str, example: Example, maps: NDArray[np.floating], volumes: _Volumes) -> dict[str, Any]:
    steps = np.rint(maps.astype(np.float32) * _ERROR_STEPS).astype(np.int8)
    places = [volumes.add(channel, example, 1 / _ERROR_STEPS) for channel in steps]
    return {"name": name, "kind": "errors", "note": "", "volumes": places}


def _bits(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return masks (R, X, Y, Z) as integers (X, Y, Z) in which bit r is region r."""
    bits = np.zeros(masks.shape[1:], np.uint8)
    for place, mask in enumerate(masks):
        bits |= mask.astype(np.uint8) << place
    return bits


def _dice(example: Example, mask: str) -> str:
    return f"Dice {100 * example.dice[mask]:.1f} %"


def _asset(name: str) -> str:
    return (files("fedserdiff.report") / "assets" / name).read_text(encoding="utf-8")

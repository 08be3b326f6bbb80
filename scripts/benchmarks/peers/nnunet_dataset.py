"""Prepared cases in nnU-Net's raw format: images and label maps as NIfTI, ``dataset.json``, and our split."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from fedserdiff.data.cache import CachedCase
from fedserdiff.data.releases import Convention
from fedserdiff.errors import ConfigError
from sites.hospital import Hospital

DATASET = "Dataset001_Peers"
_END = ".nii.gz"


def write_dataset(hospital: Hospital, folder: Path) -> None:
    """Write a hospital's training and validation cases, without test cases, as a raw dataset for nnU-Net.

    Images are as prepared: on the working grid with its voxel size, and 0 outside the brain, as nnU-Net expects.

    Raises
    ------
    ConfigError
        As for `region_labels`.
    """
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    cases = (*hospital.training, *hospital.validation)
    convention = cases[0].case.convention
    labels = region_labels(convention)
    for cached in cases:
        affine = np.diag([*cached.prepared.geometry.grid_spacing_mm, 1.0])
        for channel, image in enumerate(np.asarray(cached.prepared.image, np.float32)):
            _write(image, affine, folder / "imagesTr" / f"{cached.case.name}_{channel:04d}{_END}")
        painted = label_map(np.asarray(cached.prepared.mask, bool), convention)
        _write(painted, affine, folder / "labelsTr" / f"{cached.case.name}{_END}")
    about = {
        "channel_names": {str(number): name for number, name in enumerate(convention.modalities)},
        "labels": {"background": 0, **labels},
        "regions_class_order": list(range(1, len(labels) + 1)),
        "numTraining": len(cases),
        "file_ending": _END,
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    _write_json(about, folder / "dataset.json")


def write_split(hospital: Hospital, file: Path) -> None:
    """Write ``splits_final.json`` with one fold: our training and validation cases.

    Without validation patients, it lists the training cases for validation, because nnU-Net requires some.
    """
    training = _names(hospital.training)
    _write_json([{"train": training, "val": _names(hospital.validation) or training}], file)


def region_labels(convention: Convention) -> dict[str, list[int]]:
    """Return nnU-Net's labels of each region; the region with the most labels comes first.

    A voxel's label is the position of the last region in that order that contains it. From the second on, each region
    lies within an earlier one or is disjoint from it.

    Raises
    ------
    ConfigError
        If two regions overlap and neither contains the other, because such a label map cannot express both.
    """
    names = list(convention.regions)
    order = [names[number] for number in convention.painting_order]
    own = {name: set(convention.regions[name]) for name in order}
    for place, inner in enumerate(order):
        for outer in order[:place]:
            if own[inner] & own[outer] and not own[inner] <= own[outer]:
                raise ConfigError(f"regions {outer} and {inner} overlap partly: nnU-Net cannot express that")
    return {outer: [place for place, inner in enumerate(order, 1) if own[inner] <= own[outer]] for outer in order}


def label_map(masks: NDArray[np.bool_], convention: Convention) -> NDArray[np.uint8]:
    """Return the label map of region masks, (regions, X, Y, Z), in the convention's order, with `region_labels`."""
    painted = np.zeros(masks.shape[1:], np.uint8)
    for label, number in enumerate(convention.painting_order, 1):
        painted[masks[number]] = label
    return painted


def _names(cases: Sequence[CachedCase]) -> list[str]:
    return [cached.case.name for cached in cases]


def _write(voxels: NDArray[Any], affine: NDArray[np.floating], file: Path) -> None:
    nib.save(nib.Nifti1Image(voxels, affine), file)


def _write_json(value: Any, file: Path) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")

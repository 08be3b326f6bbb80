"""Tiny scans on disk, written without the code under test: file names and labels are spelt out here."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from fedserdiff.data.phantom.generate import write_phantom_hospital
from fedserdiff.threads import use_cpus

os.environ["FEDSERDIFF_CACHE"] = "cache"  # each test has its own, in its working directory
torch.set_num_threads(1)  # files are tested side by side, and OpenMP's threads of all would spin at each other

CHANNELS = ("t1", "t1ce", "t2", "flair", "seg")
_NEW = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}
_EXAMPLES = {
    "brats2020": "BraTS20_Training_001",
    "brats2021": "BraTS2021_00000",
    "brats2023-gli": "BraTS-GLI-00000-000",
    "brats2024-gli": "BraTS-GLI-02064-100",
}

Volumes = dict[str, NDArray[Any]]


def _draw_volumes(seed: int = 0, enhancing: int = 4) -> Volumes:
    """Return a case of 12 × 14 × 10 voxels in RAS order: noise in a box of brain, nested boxes of tumour."""
    rng = np.random.default_rng(seed)
    volumes: Volumes = {}
    for channel in CHANNELS[:4]:
        volumes[channel] = np.zeros((12, 14, 10), np.int16)
        volumes[channel][2:10, 1:12, 2:8] = rng.integers(100, 1000, (8, 11, 6))
    seg = np.zeros((12, 14, 10), np.uint8)
    seg[4:8, 3:8, 3:6] = 2
    seg[5:7, 4:7, 3:6] = 1
    seg[5, 4:6, 4] = enhancing
    volumes["seg"] = seg
    return volumes


def _write_case(
    folder: Path,
    volumes: Mapping[str, NDArray[np.generic]],
    release: str = "brats2021",
    name: str | None = None,
    axes: str = "LPS",
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    extension: str = ".nii.gz",
) -> Path:
    """Write `volumes`, given in RAS order, as one case under `folder` and return the case's own folder."""
    name = name or _EXAMPLES[release]
    case = folder / name
    case.mkdir(parents=True)
    for channel, volume in volumes.items():
        suffix = f"-{_NEW[channel]}" if "gli" in release else f"_{channel}"
        image = nib.Nifti1Image(volume, np.diag([*spacing_mm, 1.0]))
        turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(axes)))
        nib.save(image.as_reoriented(turn), case / f"{name}{suffix}{extension}")
    return case


@pytest.fixture
def one_cpu_afterwards() -> Iterator[None]:
    """For tests that have this process compute on more CPUs: others find it on one again."""
    before = torch.get_num_threads()
    yield
    use_cpus(1)
    torch.set_num_threads(before)


@pytest.fixture
def draw_volumes() -> Callable[..., Volumes]:
    return _draw_volumes


@pytest.fixture
def write_case() -> Callable[..., Path]:
    return _write_case


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """The folders of the first four phantom hospitals, one of each release, with three patients at 8 mm."""
    root = tmp_path_factory.mktemp("phantoms")
    return tuple(write_phantom_hospital(root, "contrast", index, 3, 8.0, seed=0) for index in range(4))

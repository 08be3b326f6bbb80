"""Writing of a phantom hospital's scans as NIfTI files, which the loaders for real BraTS data read."""

import os
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from fedserdiff.data.phantom.anatomy import random_anatomy
from fedserdiff.data.phantom.hospitals import PhantomHospital, phantom_hospital
from fedserdiff.data.phantom.lesion import Lesion, random_lesion
from fedserdiff.data.releases import BRATS_MODALITIES, Release, get_release
from fedserdiff.settings.groups import PhantomStream

GENERATOR_VERSION = 2
"""Part of the folder's name: increase it when the images change, so that old and new phantoms are not mixed up."""

_SCANS_IN_PAIRS = 8  # if names have a time point, one patient in this many has a second scan


def write_phantom_hospital(
    root: Path,
    stream: PhantomStream,
    index: int,
    patients: int,
    spacing_mm: float,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the scans of the phantom hospital that arrives at position `index`, unless they already exist.

    Parameters
    ----------
    root : Path
        Folder in which the hospital's folder is created.
    stream : str
        Name of the stream of phantom hospitals.
    index : int
        Position in the order of arrival, from 0.
    patients : int
        Number of patients, at least 1. One in eight has two scans if the release's names have a time point.
    spacing_mm : float
        Isotropic voxel size of the files in mm; the release determines the field of view.
    seed : int
        Seed of the patients. Scanner and population depend on `stream` and `index` alone.
    progress : callable
        Called with the number of cases written and their total.

    Returns
    -------
    Path
        The hospital's folder. It is always complete, because it is renamed into place after its last file.
    """
    hospital = phantom_hospital(stream, index)
    of = "" if stream == "contrast" else f"{stream}-"
    name = f"v{GENERATOR_VERSION}-{of}site{index + 1}-{hospital.release}-{patients}p-{spacing_mm:g}mm-seed{seed}"
    folder = root / name
    cases = case_names(hospital.release, index, patients)
    if folder.is_dir():
        progress(len(cases), len(cases))
        return folder
    partial = root / f"{name}.partial-{uuid.uuid4().hex}"
    partial.mkdir(parents=True)
    try:
        progress(0, len(cases))
        # SciPy, zlib and the generators release the interpreter lock; few threads bound the memory of fine grids. Each
        # computes single-threaded: the last bits of a multi-threaded mean vary, and so would the scans.
        threads = ThreadPoolExecutor(min(os.cpu_count() or 1, 4), "scan", torch.set_num_threads, (1,))
        try:
            written = [
                threads.submit(_write_case, partial, case, hospital, (seed, index, patient, scan), spacing_mm)
                for patient, scan, case in cases
            ]
            for done, case_written in enumerate(as_completed(written)):
                case_written.result()
                progress(done + 1, len(cases))
        finally:
            threads.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process may have finished the same hospital first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def case_names(release: str, index: int, patients: int) -> list[tuple[int, int, str]]:
    """Return (patient number, scan number, case name) of every case of a phantom hospital.

    Numbers start at 1000 × `index`, so that two phantom hospitals never share a patient name.
    """
    names = []
    for patient in range(patients):
        number = index * 1000 + patient + 1
        if release == "brats2020":
            names.append((patient, 0, f"BraTS20_Training_{number:03d}"))
        elif release == "brats2021":
            names.append((patient, 0, f"BraTS2021_{number:05d}"))
        else:
            scans = 2 if patient % _SCANS_IN_PAIRS == _SCANS_IN_PAIRS - 1 else 1
            names.extend((patient, scan, f"BraTS-GLI-{number:05d}-{scan:03d}") for scan in range(scans))
    return names


def _write_case(
    folder: Path, case: str, hospital: PhantomHospital, key: tuple[int, int, int, int], spacing_mm: float
) -> None:
    """Draw and write one case with the key (seed, hospital, patient, scan); a patient's scans show the same brain."""
    release = get_release(hospital.release)
    seed, index, patient, scan = key
    assert release.grid is not None, "the releases of phantoms have a grid"
    x, y, z = (round(n / spacing_mm) for n in release.grid)
    shape = (x, y, z)
    anatomy = random_anatomy(np.random.default_rng([seed, index, patient]), shape, spacing_mm)
    rng = np.random.default_rng([seed, index, patient, scan + 1])
    lesion = random_lesion(rng, anatomy, hospital.population, spacing_mm)
    images = hospital.scanner.image(rng, anatomy, lesion, spacing_mm)
    labels = _labels(lesion, release)

    (folder / case).mkdir()
    for modality, image in zip(BRATS_MODALITIES, images, strict=True):
        _save(folder / case / f"{release.file_stem(case, modality)}.nii.gz", image, spacing_mm)
    _save(folder / case / f"{release.file_stem(case, 'seg')}.nii.gz", labels, spacing_mm)


def _labels(lesion: Lesion, release: Release) -> NDArray[np.uint8]:
    """Return the label map: 1 non-enhancing core, 2 oedema, the release's own value for the rim, 4 cavity."""
    labels = np.zeros(lesion.core.shape, np.uint8)
    labels[lesion.oedema] = 2
    labels[lesion.core | lesion.necrosis] = 1
    labels[lesion.rim] = release.regions["et"][0]
    if 4 in release.labels and release.regions["et"] != (4,):
        labels[lesion.cavity] = 4
    return labels


def _save(path: Path, volume: NDArray[np.generic], spacing_mm: float) -> None:
    """Write a volume in RAS order to a file in LPS order, as BraTS has it."""
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = -spacing_mm * (np.array(volume.shape) - 1) / 2
    image = nib.Nifti1Image(volume, affine)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(("L", "P", "S")))
    nib.save(image.as_reoriented(turn), path)

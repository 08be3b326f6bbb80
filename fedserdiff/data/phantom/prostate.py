"""Phantoms of another organ: prostates on T2 and ADC, in the Medical Segmentation Decathlon's layout.

They show that the federation is not tied to brains: two modalities instead of four, two adjacent regions instead of
three nested ones, and tissue all around instead of a skull-stripped head. Pelvic anatomy is drawn from ellipsoids and
smooth noise (our choice). T2 follows the spin-echo signal equation with representative relaxation times at 3 T from the
literature (de Bazelaire et al., Radiology 2004; Gibbs et al., MRM 2001, for the zones). ADC follows published diffusion
coefficients (Sato et al., JMRI 2005, for the zones). The choice among the published values is ours. Labels are those of
the Decathlon's Task05: peripheral zone (PZ) 1, transition zone (TZ) 2.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedserdiff.data.decathlon import TABLE
from fedserdiff.data.phantom.anatomy import smooth_noise
from fedserdiff.data.phantom.scanner import Sequence

MODALITIES = ("T2", "ADC")
REGIONS = ("PZ", "TZ")

_EXTENT_MM = (144.0, 144.0, 84.0)
_DATASET = {
    "name": "prostate phantoms",
    "description": "synthetic, not of a patient",
    "modality": dict(enumerate(MODALITIES)),
    "labels": {0: "background", 1: "PZ", 2: "TZ"},
}
# tissue -> (T1 ms, T2 ms, proton density relative to water, ADC in 10⁻⁶ mm²/s), at 3 T
_TISSUES = {
    "fat": (380, 68, 0.95, 200), "muscle": (1420, 32, 0.80, 1300), "pz": (1600, 140, 0.88, 1750),
    "tz": (1450, 88, 0.85, 1350), "urine": (3500, 1200, 1.00, 2900), "rectum": (1300, 60, 0.35, 900),
    "bone": (600, 45, 0.55, 350), "lesion": (1450, 82, 0.84, 800),
}  # fmt: skip


@dataclass(frozen=True)
class ProstateScanner:
    """A hospital's protocol and patients.

    Attributes
    ----------
    t2 : Sequence
        Spin-echo sequence.
    fat_suppressed : bool
        Whether fat is dark on T2.
    slice_mm : float
        Slice thickness in mm.
    bias, noise : float
        As for `fedserdiff.data.phantom.scanner.Scanner`; an endorectal coil gives a strong bias.
    adc_scale : float
        Factor on all ADC values, which vary with scanner and b-values.
    tz_share : tuple of float
        Range of the transition zone's radius relative to the gland's; it grows with age.
    """

    t2: Sequence
    fat_suppressed: bool
    slice_mm: float
    bias: float
    noise: float
    adc_scale: float
    tz_share: tuple[float, float]


# A standard protocol; a fat-suppressed one with thick slices, noise and high ADC; and an endorectal coil with a strong
# bias field, low ADC and older men.
_FIRST = (
    ProstateScanner(Sequence(5000, 100), False, 3.0, 0.10, 0.03, 1.0, (0.55, 0.70)),
    ProstateScanner(Sequence(3500, 70), True, 4.0, 0.20, 0.06, 1.15, (0.50, 0.65)),
    ProstateScanner(Sequence(7000, 160), False, 3.0, 0.45, 0.04, 0.85, (0.65, 0.80)),
)


def prostate_scanner(index: int) -> ProstateScanner:
    """Return the scanner of the hospital at position `index` (from 0): the first three are fixed, the rest random."""
    if index < len(_FIRST):
        return _FIRST[index]
    rng = np.random.default_rng([30, index])
    least = rng.uniform(0.45, 0.65)
    return ProstateScanner(
        t2=Sequence(rng.uniform(3000, 7000), rng.uniform(60, 160)),
        fat_suppressed=bool(rng.random() < 0.4),
        slice_mm=rng.uniform(3.0, 5.0),
        bias=rng.uniform(0.05, 0.45),
        noise=rng.uniform(0.02, 0.06),
        adc_scale=rng.uniform(0.8, 1.2),
        tz_share=(least, least + 0.15),
    )


def write_prostate_hospital(
    folder: Path,
    index: int,
    patients: int,
    spacing_mm: float,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write a phantom hospital's ``imagesTr``, ``labelsTr`` and ``dataset.json``, overwriting existing files.

    Parameters
    ----------
    folder : Path
        The hospital's folder.
    index : int
        Position in the order of arrival, from 0; it determines the scanner and the patients' numbers.
    patients : int
        Number of patients, at least 1.
    spacing_mm : float
        Isotropic voxel size in mm.
    seed : int
        Seed of the patients.
    progress : callable
        Called with the number of cases written and their total.
    """
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    scanner = prostate_scanner(index)
    x, y, z = (round(mm / spacing_mm) for mm in _EXTENT_MM)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    training = []
    progress(0, patients)
    for patient in range(patients):
        name = f"prostate_{1000 * index + patient:04d}"
        images, labels = _draw(np.random.default_rng([seed, index, patient, 7]), scanner, (x, y, z), spacing_mm)
        nib.save(nib.Nifti1Image(images, affine), folder / "imagesTr" / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), folder / "labelsTr" / f"{name}.nii.gz")
        training.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
        progress(patient + 1, patients)
    table = {**_DATASET, "numTraining": patients, "training": training}
    (folder / TABLE).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _draw(
    rng: np.random.Generator, scanner: ProstateScanner, shape: tuple[int, int, int], spacing_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw one patient: images (X, Y, Z, 2), T2 in arbitrary units and ADC in 10⁻⁶ mm²/s, and labels (X, Y, Z)."""
    masks = _anatomy(rng, scanner, shape, spacing_mm)
    t2, adc = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for tissue, mask in masks.items():
        t1_ms, t2_ms, density, diffusion = _TISSUES[tissue]
        signal = scanner.t2.signal(t1_ms, t2_ms, density)
        t2[mask] = 0.05 * signal if tissue == "fat" and scanner.fat_suppressed else signal
        adc[mask] = scanner.adc_scale * diffusion
    texture = 1 + 0.08 * smooth_noise(rng, shape, 4.0 / spacing_mm)
    field = np.exp(scanner.bias * smooth_noise(rng, shape, 50.0 / spacing_mm))
    t2 = _acquired(rng, t2 * texture, scanner, spacing_mm) * field
    adc = _acquired(rng, adc * texture, scanner, spacing_mm)
    labels = np.zeros(shape, np.uint8)
    labels[masks["pz"] | masks["lesion"]] = 1
    labels[masks["tz"]] = 2
    gain = rng.uniform(300, 900) / float(t2.mean())  # scanners have no absolute scale
    return np.stack([t2 * gain, adc], -1).astype(np.float32), labels


def _acquired(
    rng: np.random.Generator, ideal: NDArray[np.float32], scanner: ProstateScanner, spacing_mm: float
) -> NDArray[np.float32]:
    """Add thick slices and Rician noise to an ideal magnitude image; as on a real scanner, no voxel is 0."""
    thick = ndimage.gaussian_filter1d(ideal, max(scanner.slice_mm / spacing_mm, 0.1) / 2.355, axis=2)
    real, imaginary = rng.normal(0, scanner.noise * float(ideal.mean()), (2, *ideal.shape))
    return np.asarray(np.maximum(np.hypot(thick + real, imaginary), 1e-3), np.float32)


def _anatomy(
    rng: np.random.Generator, scanner: ProstateScanner, shape: tuple[int, int, int], spacing_mm: float
) -> dict[str, NDArray[np.bool_]]:
    """Return each tissue's mask; the masks are disjoint and cover the volume."""
    axes = [(np.arange(n) - (n - 1) / 2) * spacing_mm for n in shape]
    wobble = 1 + 0.07 * smooth_noise(rng, shape, 12.0 / spacing_mm)
    grid = np.meshgrid(*axes, indexing="ij")

    def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> NDArray[np.float64]:
        """Return the distance from the centre relative to a noisy ellipsoid's surface: below 1 inside."""
        parts = (((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True))
        return np.asarray(np.sqrt(sum(parts)) * wobble)

    shift = rng.normal(0, 3.0, 3)
    centre = (float(shift[0]), float(shift[1]), float(shift[2]) - 4)
    width = rng.uniform(22, 30)
    gland = (width, 0.75 * width, 0.85 * width)
    share = rng.uniform(*scanner.tz_share)
    inner = (centre[0], centre[1] + 0.22 * width, centre[2] + 2)  # the transition zone lies in front
    in_gland = ellipsoid(centre, gland) < 1
    in_tz = in_gland & (ellipsoid(inner, (share * gland[0], share * gland[1] * 1.05, share * gland[2])) < 1)
    bladder = ellipsoid((centre[0], centre[1] + 10, centre[2] + gland[2] + 16), (30, 22, 18)) < 1
    rectum = ellipsoid((centre[0], centre[1] - gland[1] - 13, centre[2]), (14, 11, 70)) < 1
    bones = (ellipsoid((side * 58, 8, -4), (14, 22, 34)) < 1 for side in (1, -1))
    muscle = ellipsoid((0, -4, 0), (52, 50, 90)) < 1
    spot = rng.integers(0, 2) == 1  # half of the men have a dark lesion, which is part of the peripheral zone
    where = (centre[0] + rng.choice([-1, 1]) * 0.6 * width, centre[1] - 0.35 * width, centre[2])
    lesion = ellipsoid(where, (6, 5, 6)) < (1 if spot else 0)
    layers = {
        "lesion": lesion & in_gland & ~in_tz, "tz": in_tz, "pz": in_gland, "urine": bladder, "rectum": rectum,
        "bone": np.logical_or(*bones), "muscle": muscle, "fat": np.ones(shape, bool),
    }  # fmt: skip
    masks, taken = {}, np.zeros(shape, bool)
    for tissue, layer in layers.items():
        masks[tissue] = layer & ~taken
        taken |= layer
    return masks

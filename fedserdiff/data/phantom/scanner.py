"""Scanners: MR signal equations with published relaxation times, which give domain shifts a physical cause.

Relaxation times are representative values; papers differ by tens of per cent, and the choice among them is ours.
Healthy tissue: Wansapura et al., JMRI 1999 (3 T) and Stanisz et al., MRM 2005 (1.5 T and 3 T). Glioma and oedema:
Badve et al., AJNR 2017. Contrast agent shortens T1 where the blood-brain barrier leaks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedserdiff.data.phantom.anatomy import Anatomy, smooth_noise
from fedserdiff.data.phantom.lesion import Lesion

TISSUES = ("wm", "gm", "csf", "oedema", "core", "necrosis", "rim", "hyperintensity", "vessel")

# tissue -> (T1 ms, T2 ms, proton density relative to water), by field strength in tesla
_RELAXATION: Mapping[float, Mapping[str, tuple[float, float, float]]] = MappingProxyType(
    {
        3.0: {
            "wm": (832, 80, 0.70), "gm": (1331, 110, 0.82), "csf": (4300, 2000, 1.00),
            "oedema": (1550, 165, 0.88), "core": (1500, 125, 0.86), "necrosis": (2600, 320, 0.95),
            "rim": (1500, 120, 0.86), "hyperintensity": (1400, 150, 0.84), "vessel": (1650, 140, 0.80),
        },
        1.5: {
            "wm": (620, 84, 0.70), "gm": (1000, 105, 0.82), "csf": (4000, 2000, 1.00),
            "oedema": (1200, 175, 0.88), "core": (1150, 135, 0.86), "necrosis": (2000, 330, 0.95),
            "rim": (1150, 130, 0.86), "hyperintensity": (1080, 160, 0.84), "vessel": (1440, 180, 0.80),
        },
    }
)  # fmt: skip


@dataclass(frozen=True)
class Sequence:
    """One pulse sequence: spin echo, or inversion recovery if `ti` is given. Times are in ms."""

    tr: float
    te: float
    ti: float | None = None

    def signal(self, t1: float, t2: float, pd: float) -> float:
        """Return the signed signal of a tissue (spin echo, or inversion recovery with perfect inversion)."""
        recovery = 1 - np.exp(-self.tr / t1)
        if self.ti is not None:
            recovery = 1 - 2 * np.exp(-self.ti / t1) + np.exp(-self.tr / t1)
        return float(pd * recovery * np.exp(-self.te / t2))


@dataclass(frozen=True)
class Scanner:
    """A hospital's scanner and protocol.

    Attributes
    ----------
    field_t : float
        Field strength in tesla, 1.5 or 3.
    t1, t2, flair : Sequence
        Pulse sequences; T1ce uses the T1 sequence after contrast.
    enhancement : float
        Factor on the enhancing rim's T1 after gadolinium, in (0, 1]; smaller values enhance more.
    slice_mm : float
        Slice thickness in mm.
    bias : float
        Standard deviation of the logarithm of the receive field (its inhomogeneity).
    noise : float
        Standard deviation of the Rician noise, relative to the brain's mean signal.
    vessels : int
        Number of bright vessels on T1-weighted images (inflow).
    """

    field_t: float
    t1: Sequence
    t2: Sequence
    flair: Sequence
    enhancement: float
    slice_mm: float
    bias: float
    noise: float
    vessels: int = 0

    def signals(
        self, uptake: float = 1.0, factors: Mapping[str, tuple[float, float]] = MappingProxyType({})
    ) -> dict[str, dict[str, float]]:
        """Return the signed signal of every tissue by modality: t1, t1ce, t2, flair.

        `uptake` and `factors` are those of a `Lesion`.
        """
        sequences = {"t1": self.t1, "t1ce": self.t1, "t2": self.t2, "flair": self.flair}
        found: dict[str, dict[str, float]] = {}
        for modality, sequence in sequences.items():
            found[modality] = {}
            for tissue, (t1, t2, pd) in _RELAXATION[self.field_t].items():
                longer_t1, longer_t2 = factors.get(tissue, (1.0, 1.0))
                t1, t2 = t1 * longer_t1, t2 * longer_t2
                if modality == "t1ce" and tissue in ("rim", "vessel"):
                    t1 *= self.enhancement ** (uptake if tissue == "rim" else 1.0)
                if sequence is self.t1 and tissue == "vessel":
                    pd *= 1.6  # inflow of fully relaxed blood
                found[modality][tissue] = sequence.signal(t1, t2, pd)
        return found

    def image(self, rng: np.random.Generator, anatomy: Anatomy, lesion: Lesion, spacing_mm: float) -> NDArray[np.int16]:
        """Return four skull-stripped magnitude images of one patient, (4, X, Y, Z), positive inside the brain."""
        fractions = _fractions(rng, anatomy, lesion, self.vessels)
        gain = rng.uniform(500, 1500)  # scanners have no absolute scale
        volumes = []
        for signals in self.signals(lesion.uptake, lesion.factors).values():
            signal = np.zeros(anatomy.brain.shape, np.float32)
            for tissue, fraction in fractions.items():
                signal += fraction * signals[tissue]
            volumes.append(self._acquire(rng, np.abs(signal), anatomy.brain, spacing_mm))
        return np.stack([np.where(anatomy.brain, np.maximum(v * gain, 1), 0) for v in volumes]).astype(np.int16)

    def _acquire(
        self, rng: np.random.Generator, signal: NDArray[np.float32], brain: NDArray[np.bool_], spacing_mm: float
    ) -> NDArray[np.float32]:
        """Add thick slices, the receive field and Rician noise to an ideal magnitude image."""
        thickness = self.slice_mm / spacing_mm
        if thickness > 1:
            signal = ndimage.gaussian_filter1d(signal, thickness / 2.355, axis=2)
        field = np.exp(self.bias * smooth_noise(rng, brain.shape, 60.0 / spacing_mm))
        sigma = self.noise * float(signal[brain].mean())
        real, imaginary = (rng.normal(0, sigma, brain.shape) for _ in range(2))
        magnitude = np.zeros(brain.shape, np.float32)
        magnitude[brain] = np.hypot(signal[brain] * field[brain] + real[brain], imaginary[brain])
        return magnitude


def _fractions(
    rng: np.random.Generator, anatomy: Anatomy, lesion: Lesion, vessels: int
) -> dict[str, NDArray[np.float32]]:
    """Return the fraction of each tissue in each voxel, with diseased in place of healthy tissue."""
    fractions = {"wm": anatomy.wm.copy(), "gm": anatomy.gm.copy(), "csf": anatomy.csf.copy()}
    replaced = [(name, getattr(lesion, name)) for name in ("hyperintensity", "oedema", "core", "necrosis", "rim")]
    replaced += [("csf", lesion.cavity), ("vessel", _vessels(rng, anatomy, vessels) & ~lesion.rim)]
    for name, mask in replaced:
        for fraction in fractions.values():
            fraction[mask] = 0
        fractions.setdefault(name, np.zeros_like(anatomy.wm))[mask] = 1
    return fractions


def _vessels(rng: np.random.Generator, anatomy: Anatomy, count: int) -> NDArray[np.bool_]:
    """Draw `count` smooth random walks through grey matter and CSF, one voxel wide."""
    mask = np.zeros_like(anatomy.brain)
    starts = np.argwhere(anatomy.brain & (anatomy.gm + anatomy.csf > 0.8))
    for _ in range(count):
        position = starts[rng.integers(len(starts))].astype(float)
        heading = rng.normal(size=3)
        for _ in range(40):
            heading += 0.35 * rng.normal(size=3)
            heading /= np.linalg.norm(heading)
            position += 0.8 * heading
            index = tuple(np.round(position).astype(int))
            if any(i < 0 or i >= n for i, n in zip(index, mask.shape, strict=True)):
                break
            mask[index] = True
    return mask & anatomy.brain

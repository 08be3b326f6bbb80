"""The phantom hospitals in order of arrival: which release, which scanner, which patients."""

from dataclasses import dataclass

import numpy as np

from fedserdiff.data.phantom.lesion import Population
from fedserdiff.data.phantom.scanner import Scanner, Sequence

_RELEASES = ("brats2020", "brats2021", "brats2023-gli", "brats2024-gli")  # in turn


@dataclass(frozen=True)
class PhantomHospital:
    """One phantom hospital: its release's name, its scanner and its patients."""

    release: str
    scanner: Scanner
    population: Population


# The first three make forgetting real: a standard 3 T protocol; an older 1.5 T one whose FLAIR does not suppress
# CSF, with weak contrast and unlabelled hyperintensities; and inversion-recovery T1, whose contrast is inverted.
_FIRST = (
    PhantomHospital(
        "brats2020",
        Scanner(3.0, Sequence(600, 10), Sequence(5000, 100), Sequence(9000, 120, 2500), 0.33, 3.0, 0.10, 0.03),
        Population((20, 34), 0.10, (0, 2)),
    ),
    PhantomHospital(
        "brats2021",
        Scanner(1.5, Sequence(450, 14), Sequence(2800, 45), Sequence(6000, 90, 1500), 0.60, 3.0, 0.15, 0.03),
        Population((16, 28), 0.20, (6, 14)),
    ),
    PhantomHospital(
        "brats2023-gli",
        Scanner(3.0, Sequence(2500, 12, 480), Sequence(6000, 160), Sequence(8000, 60, 2700), 0.45, 5.0, 0.30, 0.03, 12),
        Population((22, 38), 0.05, (0, 4)),
    ),
)


def phantom_hospital(index: int) -> PhantomHospital:
    """Return the phantom hospital that arrives at place `index` (from 0): three set ones, then drawn protocols.

    The draw depends on `index` alone, so that every seed meets the same hospitals (their patients differ).
    """
    if index < len(_FIRST):
        return _FIRST[index]
    rng = np.random.default_rng([20, index])
    field_t = float(rng.choice([1.5, 3.0]))
    inverted = rng.random() < 0.3
    t1 = Sequence(2500, 12, rng.uniform(450, 700)) if inverted else Sequence(rng.uniform(400, 700), rng.uniform(8, 15))
    release = _RELEASES[index % len(_RELEASES)]
    return PhantomHospital(
        release=release,
        scanner=Scanner(
            field_t=field_t,
            t1=t1,
            t2=Sequence(rng.uniform(2800, 6500), rng.uniform(50, 160)),
            flair=Sequence(rng.uniform(6000, 10000), rng.uniform(60, 140), rng.uniform(1500, 2700)),
            enhancement=rng.uniform(0.33, 0.6),
            slice_mm=rng.uniform(1.0, 5.0),
            bias=rng.uniform(0.05, 0.3),
            noise=0.03,
            vessels=int(rng.integers(0, 12)),
        ),
        population=Population(
            radius_mm=(rng.uniform(15, 22), rng.uniform(28, 38)),
            non_enhancing=rng.uniform(0.0, 0.2),
            hyperintensities=(0, int(rng.integers(2, 12))),
            cavities=0.5 if release == "brats2024-gli" else 0.0,
        ),
    )

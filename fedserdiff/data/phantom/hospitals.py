"""The phantom hospitals of each stream in order of arrival, with their release, scanner and patients."""

from dataclasses import dataclass

import numpy as np

from fedserdiff.data.phantom.admissible import objections
from fedserdiff.data.phantom.lesion import Population
from fedserdiff.data.phantom.scanner import Scanner, Sequence
from fedserdiff.settings.groups import PhantomStream

_RELEASES = ("brats2020", "brats2021", "brats2023-gli", "brats2024-gli")  # in turn
_FEWEST = 4  # patients of a small hospital, unless the stream's medium-sized one has fewer
_MOST_DRAWS = 100


@dataclass(frozen=True)
class PhantomHospital:
    """One phantom hospital.

    Attributes
    ----------
    release : str
        Name of the release whose layout its scans follow.
    scanner : Scanner
    population : Population
    size : float
        Number of patients relative to a medium-sized hospital.
    """

    release: str
    scanner: Scanner
    population: Population
    size: float = 1.0

    def patients(self, middling: int) -> int:
        """Return the number of patients if a medium-sized hospital has `middling`."""
        return max(round(self.size * middling), min(_FEWEST, middling))


# The first three hospitals of the stream `contrast` make forgetting as strong as possible: a standard 3 T protocol; an
# older 1.5 T protocol whose FLAIR does not suppress CSF, with weak contrast and unlabelled hyperintensities; and
# inversion-recovery T1, whose contrast is inverted. A radiologist would accept only the first.
_CONTRAST = (
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

# The patients of the first six hospitals of the stream `patients` resemble those of six hospitals of BraTS 2018 and
# 2020, as measured in docs/explanation/patient-stream.md. Scanners differ moderately and are our choice.
_PATIENTS = (
    PhantomHospital(  # like the University of Pennsylvania: many patients, all high-grade, two thirds oedema
        "brats2020",
        Scanner(3.0, Sequence(600, 10), Sequence(5000, 100), Sequence(9000, 120, 2500), 0.33, 3.0, 0.10, 0.03, 10),
        Population(
            radius_mm=(18, 32),
            non_enhancing=0.0,
            hyperintensities=(0, 3),
            core=(0.48, 0.85),
            uptake=(0.6, 1.2),
            multifocal=0.15,
            frontal=0.5,
            variation=0.2,
        ),
        size=1.5,
    ),
    PhantomHospital(  # like Thomas Jefferson University: few patients, mostly low-grade
        "brats2021",
        Scanner(1.5, Sequence(500, 12), Sequence(4000, 95), Sequence(9000, 110, 2350), 0.40, 3.0, 0.15, 0.03, 10),
        Population(
            radius_mm=(22, 34),
            non_enhancing=0.0,
            hyperintensities=(0, 4),
            low_grade=0.85,
            core=(0.42, 0.80),
            uptake=(0.6, 1.2),
            frontal=0.6,
            variation=0.2,
        ),
        size=0.5,
    ),
    PhantomHospital(  # like Henry Ford: half low-grade, large tumours with large cores
        "brats2023-gli",
        Scanner(3.0, Sequence(700, 12), Sequence(3500, 85), Sequence(8000, 100, 2400), 0.36, 4.0, 0.12, 0.03, 12),
        Population(
            radius_mm=(26, 37),
            non_enhancing=0.0,
            hyperintensities=(0, 4),
            low_grade=0.5,
            core=(0.65, 0.92),
            uptake=(0.5, 1.2),
            multifocal=0.02,
            frontal=0.7,
            variation=0.2,
        ),
        size=1.0,
    ),
    PhantomHospital(  # like the sites of 2012 and 2013: a quarter does not enhance
        "brats2024-gli",
        Scanner(1.5, Sequence(550, 14), Sequence(4500, 110), Sequence(10000, 130, 2450), 0.42, 5.0, 0.20, 0.03, 12),
        Population(
            radius_mm=(24, 35),
            non_enhancing=0.0,
            hyperintensities=(0, 3),
            low_grade=0.4,
            core=(0.60, 0.88),
            uptake=(0.6, 1.2),
            frontal=0.7,
            variation=0.2,
        ),
        size=0.5,
    ),
    PhantomHospital(  # like MD Anderson: few patients, all high-grade, large enhancing rims
        "brats2020",
        Scanner(3.0, Sequence(500, 9), Sequence(5500, 105), Sequence(9500, 125, 2550), 0.30, 2.0, 0.08, 0.03, 8),
        Population(
            radius_mm=(22, 34),
            non_enhancing=0.0,
            hyperintensities=(0, 3),
            core=(0.70, 0.90),
            uptake=(0.8, 1.2),
            frontal=0.5,
            variation=0.2,
        ),
        size=0.4,
    ),
    PhantomHospital(  # like Case Western: two thirds low-grade, large cores
        "brats2021",
        Scanner(1.5, Sequence(450, 10), Sequence(3800, 90), Sequence(8500, 115, 2300), 0.40, 4.0, 0.15, 0.03, 12),
        Population(
            radius_mm=(26, 36),
            non_enhancing=0.0,
            hyperintensities=(0, 4),
            low_grade=0.65,
            core=(0.60, 0.92),
            uptake=(0.5, 1.2),
            multifocal=0.05,
            frontal=0.7,
            variation=0.2,
        ),
        size=0.6,
    ),
)


def phantom_hospital(stream: PhantomStream, index: int) -> PhantomHospital:
    """Return the phantom hospital that arrives at position `index` (from 0): first fixed, then random ones.

    Random hospitals depend only on `stream` and `index`: every seed has the same hospitals, with other patients.
    """
    if stream == "contrast":
        return _CONTRAST[index] if index < len(_CONTRAST) else _of_any_contrast(index)
    return _PATIENTS[index] if index < len(_PATIENTS) else _of_other_patients(index)


def _of_any_contrast(index: int) -> PhantomHospital:
    """Draw a hospital with any protocol, admissible or not."""
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


def _of_other_patients(index: int) -> PhantomHospital:
    """Draw a hospital whose patients lie within the measured range and whose protocol is admissible.

    Raises
    ------
    RuntimeError
        If a hundred drawn protocols are all inadmissible.
    """
    rng = np.random.default_rng([27, index])
    # Most hospitals mainly treat glioblastoma; some see low-grade tumours as often.
    low_grade = 0.0 if rng.random() < 0.4 else rng.uniform(0.3, 0.7)
    least, core = rng.uniform(18, 26), rng.uniform(0.55, 0.75)
    population = Population(
        radius_mm=(least, least + rng.uniform(8, 14)),
        non_enhancing=0.0,
        hyperintensities=(0, int(rng.integers(2, 6))),
        low_grade=low_grade,
        core=(core, core + rng.uniform(0.12, 0.2)),
        uptake=(rng.uniform(0.5, 0.8), 1.2),
        multifocal=rng.uniform(0.0, 0.2),
        frontal=rng.uniform(0.4, 0.7),
        variation=0.2,
    )
    size = float(np.exp(rng.uniform(np.log(0.3), np.log(2.0))))
    for _ in range(_MOST_DRAWS):
        scanner = Scanner(
            field_t=float(rng.choice([1.5, 3.0])),
            t1=Sequence(rng.uniform(400, 700), rng.uniform(8, 15)),
            t2=Sequence(rng.uniform(3000, 6500), rng.uniform(80, 120)),
            flair=Sequence(rng.uniform(7000, 10000), rng.uniform(90, 140), rng.uniform(2000, 2700)),
            enhancement=rng.uniform(0.3, 0.55),
            slice_mm=rng.uniform(1.0, 5.0),
            bias=rng.uniform(0.05, 0.2),
            noise=0.03,
            vessels=int(rng.integers(6, 14)),
        )
        if not objections(scanner, population.weakest_uptake):
            return PhantomHospital(_RELEASES[index % len(_RELEASES)], scanner, population, size)
    raise RuntimeError(f"hospital {index + 1}: {_MOST_DRAWS} drawn protocols are inadmissible")

"""Phantom patients follow the figures of their population."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from fedserdiff.data.phantom.anatomy import Anatomy, random_anatomy
from fedserdiff.data.phantom.hospitals import phantom_hospital
from fedserdiff.data.phantom.lesion import Lesion, Population, random_lesion

SPACING_MM = 5.0
HIGH_GRADE = Population((18, 30), 0.0, (0, 0))


@pytest.fixture(scope="module")
def brain() -> Anatomy:
    return random_anatomy(np.random.default_rng(0), (48, 48, 31), SPACING_MM)


def lesions(brain: Anatomy, population: Population, count: int = 40) -> list[Lesion]:
    return [random_lesion(np.random.default_rng([5, n]), brain, population, SPACING_MM) for n in range(count)]


def whole(lesion: Lesion) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.asarray(lesion.oedema | lesion.core | lesion.necrosis | lesion.rim)


def oedema_shares(found: Sequence[Lesion]) -> float:
    return float(np.median([lesion.oedema.sum() / whole(lesion).sum() for lesion in found]))


def test_parts_are_disjoint_and_inside_the_brain(brain: Anatomy) -> None:
    for lesion in lesions(brain, replace(HIGH_GRADE, low_grade=0.5, multifocal=1.0), 20):
        parts = np.stack([lesion.oedema, lesion.core, lesion.necrosis, lesion.rim])
        assert parts.sum(0).max() == 1
        assert not (parts.any(0) & ~brain.brain).any()


def test_low_grade_has_no_necrosis_a_larger_core_and_seldom_faint_enhancement(brain: Anatomy) -> None:
    high, low = lesions(brain, HIGH_GRADE), lesions(brain, replace(HIGH_GRADE, low_grade=1.0))
    assert all(lesion.necrosis.any() and lesion.rim.any() for lesion in high)
    assert not any(lesion.necrosis.any() for lesion in low)
    assert 0.3 < np.mean([lesion.rim.any() for lesion in low]) < 0.7
    assert oedema_shares(low) < 0.6 < oedema_shares(high)
    assert max(lesion.rim.sum() / whole(lesion).sum() for lesion in low) < 0.3
    assert {lesion.uptake for lesion in high} == {1.0}
    assert 0.4 <= min(lesion.uptake for lesion in low) < max(lesion.uptake for lesion in low) <= 0.8


def test_share_of_low_grade_is_that_of_patients(brain: Anatomy) -> None:
    found = lesions(brain, replace(HIGH_GRADE, low_grade=0.3), 100)
    assert 0.18 < np.mean([not lesion.necrosis.any() for lesion in found]) < 0.42  # of 100, within 2.6 deviations


def test_a_larger_core_leaves_less_oedema(brain: Anatomy) -> None:
    small, large = (lesions(brain, replace(HIGH_GRADE, core=core)) for core in ((0.5, 0.55), (0.85, 0.9)))
    # 1 − 0.525³ and 1 − 0.875³, as far as noise and the brain's edge let it be
    assert oedema_shares(small) == pytest.approx(0.855, abs=0.06)
    assert oedema_shares(large) == pytest.approx(0.33, abs=0.08)


def test_uptake_is_drawn_in_its_range(brain: Anatomy) -> None:
    uptakes = [lesion.uptake for lesion in lesions(brain, replace(HIGH_GRADE, uptake=(0.6, 1.2)))]
    assert 0.6 <= min(uptakes) < 0.75
    assert 1.05 < max(uptakes) <= 1.2


def test_relaxation_varies_from_patient_to_patient_by_what_is_asked(brain: Anatomy) -> None:
    found = lesions(brain, replace(HIGH_GRADE, variation=0.2), 60)
    assert all(set(lesion.factors) == {"oedema", "core", "necrosis", "rim"} for lesion in found)
    logarithms = np.log([list(lesion.factors.values()) for lesion in found]).reshape(60, 8)
    assert logarithms.std(0) == pytest.approx(0.2, rel=0.35)
    assert logarithms.mean(0) == pytest.approx(0, abs=0.1)
    assert abs(np.corrcoef(logarithms.T)[0, 1:]).max() < 0.45, "each tissue's T1 and T2 on their own"


def test_a_second_focus_is_smaller_and_apart_for_some_patients(brain: Anatomy) -> None:
    one, more = lesions(brain, HIGH_GRADE), lesions(brain, replace(HIGH_GRADE, multifocal=1.0))
    assert all(ndimage.label(whole(lesion), np.ones((3, 3, 3)))[1] == 1 for lesion in one)
    apart = 0
    for lesion in more:
        labels, count = ndimage.label(whole(lesion), np.ones((3, 3, 3)))
        if count == 2:
            apart += 1
            assert sorted(np.bincount(labels.ravel())[1:])[0] < 0.5 * whole(lesion).sum()
    assert apart > len(more) / 2, "the others touch"


def test_frontal_tumours_lie_in_front_and_others_behind(brain: Anatomy) -> None:
    filled = np.flatnonzero(brain.brain.any((0, 2)))
    middle = (filled[0] + filled[-1]) / 2
    small = Population((9, 10), 0.0, (0, 0))
    front, back = (
        np.array([ndimage.center_of_mass(whole(lesion))[1] for lesion in lesions(brain, replace(small, frontal=share))])
        for share in (1.0, 0.0)
    )
    assert (front > middle - 2).all()  # a small tumour's centre is within two voxels of its seed
    assert (back < middle + 2).all()
    assert np.mean(front) > np.mean(back) + 4


def test_hospitals_differ_in_patients_as_brats_hospitals_do(brain: Anatomy) -> None:
    """Figures are what docs/explanation/patient-stream.md measured of the hospitals; 40 patients vary about them."""
    measured = {  # place: share without enhancement, median share of oedema
        0: (0.0, 0.68),
        1: (0.33, 0.60),
        2: (0.25, 0.48),
        3: (0.22, 0.48),
        4: (0.0, 0.52),
        5: (0.35, 0.40),
    }
    for index, (without, oedema) in measured.items():
        found = lesions(brain, phantom_hospital("patients", index).population)
        assert np.mean([not lesion.rim.any() for lesion in found]) == pytest.approx(without, abs=0.17)
        assert oedema_shares(found) == pytest.approx(oedema, abs=0.13)


def test_hospitals_have_many_patients_or_few_and_a_tiny_study_keeps_what_it_asks_for() -> None:
    counts = [phantom_hospital("patients", index).patients(20) for index in range(6)]
    assert counts == [30, 10, 20, 10, 8, 12]
    assert [phantom_hospital("contrast", index).patients(20) for index in range(6)] == [20] * 6
    assert all(4 <= phantom_hospital("patients", index).patients(4) <= 8 for index in range(50))
    assert all(phantom_hospital("patients", index).patients(2) >= 2 for index in range(50))

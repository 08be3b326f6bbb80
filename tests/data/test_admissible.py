"""Protocols that a radiologist accepts; the stream of realistic hospitals uses no others."""

from dataclasses import replace

import numpy as np
import pytest

from fedserdiff.data.phantom.admissible import objections
from fedserdiff.data.phantom.anatomy import Anatomy
from fedserdiff.data.phantom.hospitals import PhantomHospital, phantom_hospital
from fedserdiff.data.phantom.lesion import Lesion
from fedserdiff.data.phantom.scanner import Scanner, Sequence

STANDARD = Scanner(3.0, Sequence(600, 10), Sequence(5000, 100), Sequence(9000, 120, 2500), 0.33, 1.0, 0.0, 0.0)
SET = 6  # hospitals of the stream that are not drawn


@pytest.mark.parametrize("field_t", [1.5, 3.0])
def test_a_standard_protocol_is_admissible(field_t: float) -> None:
    assert objections(replace(STANDARD, field_t=field_t)) == ()


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        # inversion recovery before white matter's null: contrast is inverted, and gadolinium darkens the rim
        (
            {"t1": Sequence(2500, 12, 480)},
            ("t1: wm is not brighter than gm", "t1ce: rim is not brighter than before contrast"),
        ),
        # a repetition time of five T1 weights by proton density, of which grey matter has more
        ({"t1": Sequence(6000, 10)}, ("t1: wm is not brighter than gm",)),
        # no dose
        (
            {"enhancement": 1.0},
            ("t1ce: rim is not brighter than wm", "t1ce: rim is not brighter than before contrast"),
        ),
        # short TR and TE: CSF has not recovered, and nothing has decayed
        ({"t2": Sequence(1500, 20)}, ("t2: csf is not brighter than wm", "t2: csf is not brighter than gm")),
        # long past CSF's null at 2481 ms, which is nothing but T2 weighting
        (
            {"flair": Sequence(9000, 120, 6000)},
            ("flair: wm is not brighter than csf", "flair: gm is not brighter than csf"),
        ),
        # short echo, and oedema half way through its recovery: white matter is the brighter
        ({"flair": Sequence(9000, 5, 1900)}, ("flair: oedema is not brighter than wm",)),
    ],
)
def test_a_protocol_that_does_not_occur_is_objected_to_by_what_it_shows(
    protocol: dict[str, float | Sequence], expected: tuple[str, ...]
) -> None:
    assert set(expected) <= set(objections(replace(STANDARD, **protocol)))  # type: ignore[arg-type]


def test_a_rim_that_takes_up_too_little_is_objected_to() -> None:
    # T1 of 1500 ms × 0.33^0.1: 1 − exp(−600/1343) is 0.36 against white matter's 0.51
    assert "t1ce: rim is not brighter than wm" in objections(STANDARD, uptake=0.1)
    assert objections(STANDARD, uptake=0.6) == ()


@pytest.mark.parametrize("index", [*range(SET), SET + 3])
def test_images_of_the_streams_hospitals_are_in_a_radiologists_order(index: int) -> None:
    """Weakest rim and thinnest slices, without noise and receive field: a voxel of each tissue side by side."""
    hospital = phantom_hospital("patients", index)
    pure = replace(hospital.scanner, slice_mm=1.0, bias=0.0, noise=0.0, vessels=0)
    wm, gm, csf = (np.zeros((4, 4, 8), np.float32) for _ in range(3))
    wm[0], gm[1], csf[2], wm[3] = 1, 1, 1, 1
    none = np.zeros(wm.shape, bool)
    rim, oedema = none.copy(), none.copy()
    rim[3, :2], oedema[3, 2:] = True, True
    uptake = hospital.population.weakest_uptake
    lesion = Lesion(oedema, none, none, rim, none, none, uptake)

    images = pure.image(np.random.default_rng(0), Anatomy(wm, gm, csf, ~none), lesion, 1.0).astype(float)

    t1, t1ce, t2, flair = ({t: m[at] for t, at in PLACES.items()} for m in images)
    assert t1["wm"] > t1["gm"] > t1["csf"]
    assert t1ce["rim"] > max(t1["rim"], t1ce["wm"])
    assert t2["csf"] > max(t2["gm"], t2["wm"], t2["oedema"])
    assert t2["oedema"] > t2["wm"]
    assert flair["oedema"] > flair["wm"] > flair["csf"]
    assert flair["gm"] > flair["csf"]


PLACES = {"wm": (0, 1, 1), "gm": (1, 1, 1), "csf": (2, 1, 1), "rim": (3, 0, 1), "oedema": (3, 3, 1)}


def test_a_thousand_drawn_hospitals_are_admissible_and_no_two_alike() -> None:
    hospitals = [phantom_hospital("patients", index) for index in range(1000)]
    for hospital in hospitals:
        assert_ordered(hospital)
    assert len({hospital.scanner for hospital in hospitals}) == 1000
    # they are as different as before: both field strengths, with and without low-grade patients, small and large
    drawn = hospitals[SET:]
    assert {hospital.scanner.field_t for hospital in drawn} == {1.5, 3.0}
    assert 0.3 < np.mean([hospital.population.low_grade == 0 for hospital in drawn]) < 0.5
    assert min(hospital.patients(20) for hospital in drawn) <= 8
    assert max(hospital.patients(20) for hospital in drawn) >= 36


def assert_ordered(hospital: PhantomHospital) -> None:
    signals = hospital.scanner.signals(hospital.population.weakest_uptake)
    t1, t1ce, t2, flair = ({t: abs(s) for t, s in signals[m].items()} for m in ("t1", "t1ce", "t2", "flair"))
    assert t1["wm"] > t1["gm"] > t1["csf"]
    assert t1ce["rim"] > max(t1["rim"], t1ce["wm"])
    assert t2["csf"] > max(t2["gm"], t2["wm"])
    assert t2["oedema"] > t2["wm"]
    assert flair["oedema"] > flair["wm"]
    assert flair["csf"] < min(flair["gm"], flair["wm"])

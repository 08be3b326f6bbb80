"""A hospital's moments, compared with the figures from which the patients were drawn."""

from copy import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedserdiff.lesions.moments import LesionMoments, moments_of

SHAPE = (24, 24, 12)
TC, WT, ET = range(3)
LOOKS = {"necrosis": (-1.0, -2.0, 3.0, 2.0), "oedema": (-0.5, 0.0, 2.0, 4.0), "enhancing": (0.0, 5.0, 1.0, 3.0)}


def patient(
    name: str, enhancing: bool = True, gain: float = 1.0, offset: float = 0.0, lesion: bool = True, seed: int = 0
) -> Any:
    """A scan of healthy noise of mean 0 and deviation 1 and of a lesion of three boxes, then times gain plus offset."""
    rng = np.random.default_rng(seed)
    image = np.zeros((4, *SHAPE), np.float32)
    mask = np.zeros((3, *SHAPE), np.uint8)
    image[:, 1:-1, 1:-1, 1:-1] = rng.normal(size=(4, 22, 22, 10))
    if lesion:
        _fill(image, (slice(4, 16), slice(4, 16), slice(2, 10)), LOOKS["oedema"], rng)
        mask[WT, 4:16, 4:16, 2:10] = 1
        _fill(image, (slice(6, 14), slice(6, 14), slice(4, 8)), LOOKS["enhancing" if enhancing else "necrosis"], rng)
        mask[TC, 6:14, 6:14, 4:8] = 1
        mask[ET, 6:14, 6:14, 4:8] = enhancing
        _fill(image, (slice(8, 12), slice(8, 12), slice(4, 8)), LOOKS["necrosis"], rng)
        mask[ET, 8:12, 8:12, 4:8] = 0
    brain = image != 0
    image[brain] = gain * image[brain] + offset
    prepared = SimpleNamespace(image=image, mask=mask)
    return SimpleNamespace(prepared=prepared, case=SimpleNamespace(patient=name))


def _fill(
    image: NDArray[np.float32], box: tuple[slice, ...], look: tuple[float, ...], rng: np.random.Generator
) -> None:
    """Intensities of a look, whose channels 1 and 2 vary together, and with half of healthy tissue's deviation."""
    noise = rng.normal(size=image[(slice(None), *box)].shape)
    noise[2] = noise[1]
    image[(slice(None), *box)] = np.reshape(look, (4, 1, 1, 1)) + 0.5 * noise


@pytest.fixture(scope="module")
def moments() -> LesionMoments:
    """Moments of ten patients, six of them with an enhancing tumour; their lesions differ only by noise."""
    return moments_of([patient(str(n), enhancing=n < 6, seed=n) for n in range(10)], 2.0, 5)


def test_means_of_classes_are_those_that_patients_were_made_of(moments: LesionMoments) -> None:
    assert moments.means[TC] == pytest.approx(LOOKS["necrosis"], abs=0.1)
    assert moments.means[WT] == pytest.approx(LOOKS["oedema"], abs=0.1)
    assert moments.means[ET] == pytest.approx(LOOKS["enhancing"], abs=0.1)


def test_covariance_within_patients_tells_which_modalities_vary_together(moments: LesionMoments) -> None:
    expected = 0.25 * np.eye(4)
    expected[1, 2] = expected[2, 1] = 0.25
    assert moments.within[ET] == pytest.approx(expected, abs=0.05)
    assert np.abs(moments.between).max() < 0.05


def test_extents_are_shares_of_patients_and_of_lesions_and_depths_rise_inwards(moments: LesionMoments) -> None:
    whole, core, necrosis = 12 * 12 * 8, 8 * 8 * 4, 4 * 4 * 4
    assert moments.extent[ET, :3] == pytest.approx([0.6, np.log((core - necrosis) / whole), 0.0], abs=1e-5)
    assert moments.extent[WT, :3] == pytest.approx([1.0, np.log((whole - core) / whole), 0.0], abs=1e-5)
    necrotic = np.log([necrosis / whole] * 6 + [core / whole] * 4)
    assert moments.extent[TC, :3] == pytest.approx([1.0, necrotic.mean(), necrotic.std()], abs=1e-5)
    assert moments.extent[WT, 3] < moments.extent[ET, 3] < moments.extent[TC, 3]


def test_regions_are_known_to_lie_inside_others(moments: LesionMoments) -> None:
    assert moments.inside.tolist() == [[0, 1, 0], [0, 0, 0], [1, 1, 0]]


def test_size_is_the_radius_of_a_ball_of_the_lesions_volume(moments: LesionMoments) -> None:
    radius = (3 * 12 * 12 * 8 * 2.0**3 / (4 * np.pi)) ** (1 / 3)
    assert moments.size == pytest.approx([np.log(radius), 0.0], abs=1e-5)


def test_a_scanners_gain_and_offset_leave_no_trace(moments: LesionMoments) -> None:
    scaled = moments_of([patient(str(n), n < 6, 0.5, 0.3, seed=n) for n in range(10)], 2.0, 5)
    assert scaled.means == pytest.approx(moments.means, abs=0.15)  # healthy tissue is held a little to mean 0
    assert scaled.extent == pytest.approx(moments.extent)


def test_patients_whose_means_differ_show_in_the_covariance_between_them() -> None:
    """Healthy tissue of half of them has a gain that makes their lesions brighter by comparison."""
    cases = [patient(str(n), seed=n) for n in range(10)]
    for case in cases[:5]:
        image, mask = case.prepared.image, case.prepared.mask
        image[3, mask[WT] == 1] += 2.0
    between = moments_of(cases, 2.0, 5).between
    assert between[:, 3, 3] == pytest.approx(10 / 9, abs=0.1)  # ten values, half of them 2 above the others
    assert np.abs(between[:, :3, :3]).max() < 0.05


def test_fewer_than_five_patients_share_nothing() -> None:
    few = moments_of([patient(str(n), seed=n) for n in range(4)], 2.0, 5)
    assert not any(getattr(few, name).any() for name in few.names())


def test_scans_of_one_patient_are_one_patient() -> None:
    again = moments_of([patient(str(n // 2), seed=n) for n in range(8)], 2.0, 5)
    assert not again.patients.any()


def test_a_class_that_fewer_than_five_have_counts_as_absent() -> None:
    rare = moments_of([patient(str(n), enhancing=n < 4, seed=n) for n in range(8)], 2.0, 5)
    assert not rare.means[ET].any()
    assert not rare.extent[ET].any()
    assert not rare.within[ET].any()
    assert rare.means[TC].any()


def test_counts_are_rounded() -> None:
    """13 of 17 patients are 0.765, and 17 patients are reported as 15."""
    moments = moments_of([patient(str(n), enhancing=n < 13, seed=n) for n in range(17)], 2.0, 5)
    assert moments.patients.tolist() == [15]
    assert moments.extent[ET, 0] == pytest.approx(0.75)


def test_patients_without_a_lesion_lower_the_shares_alone() -> None:
    moments = moments_of([patient(str(n), lesion=n < 6, seed=n) for n in range(8)], 2.0, 5)
    assert moments.extent[:, 0] == pytest.approx(0.75)
    assert moments.means[ET] == pytest.approx(LOOKS["enhancing"], abs=0.1)


def test_shapes_are_as_announced(moments: LesionMoments) -> None:
    shapes = LesionMoments.shapes(3, 4)
    assert {name: getattr(moments, name).shape for name in moments.names()} == shapes
    assert all(getattr(moments, name).dtype == np.float32 for name in shapes)


def test_regions_side_by_side_lie_in_none_and_are_classes_as_they_are() -> None:
    """Such as the peripheral and the transition zone of a prostate."""

    def gland(number: int) -> Any:
        scan = patient(str(number), seed=number)
        mask = np.zeros((2, *SHAPE), np.uint8)
        mask[0, 4:16, 4:10, 2:10] = 1
        mask[1, 4:16, 10:16, 2:10] = 1
        scan.prepared.image[0][mask[1] == 1] += 3
        return SimpleNamespace(prepared=SimpleNamespace(image=scan.prepared.image, mask=mask), case=scan.case)

    moments = moments_of([gland(number) for number in range(5)], 1.0, 5)
    assert not moments.inside.any()
    assert moments.extent[:, :2] == pytest.approx(np.array([[1, np.log(0.5)], [1, np.log(0.5)]]), abs=1e-6)
    assert moments.means[1, 0] - moments.means[0, 0] == pytest.approx(3, abs=0.2)


def test_a_hospital_reads_each_scan_once_whatever_is_asked() -> None:
    reads: list[str] = []

    class Prepared:
        def __init__(self, drawn: Any, name: str) -> None:
            self._drawn, self._name = drawn.prepared, name

        @property
        def image(self) -> NDArray[np.float32]:
            reads.append(self._name)
            return self._drawn.image  # type: ignore[no-any-return]

        @property
        def mask(self) -> NDArray[np.uint8]:
            return self._drawn.mask  # type: ignore[no-any-return]

    drawn = [patient(str(n), enhancing=n < 4, seed=n) for n in range(6)]
    cases: Any = [SimpleNamespace(prepared=Prepared(one, str(n)), case=one.case) for n, one in enumerate(drawn)]
    for least in (1, 5, 7):
        for name in LesionMoments.names():
            again, fresh = moments_of(tuple(cases), 2.0, least), moments_of([copy(one) for one in drawn], 2.0, least)
            assert np.array_equal(getattr(again, name), getattr(fresh, name))
    assert reads == ["0", "1", "2", "3", "4", "5"]
    moments_of(cases[:5], 2.0, 1)
    assert len(reads) == 11, "other cases are another hospital's"

"""The MR physics of the phantoms, compared with numbers computed by hand."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fedserdiff.data.phantom.anatomy import Anatomy
from fedserdiff.data.phantom.lesion import Lesion
from fedserdiff.data.phantom.scanner import Scanner, Sequence

SHAPE = (6, 6, 6)
T1, T1CE, T2, FLAIR = range(4)


@pytest.mark.parametrize(
    ("sequence", "tissue", "expected"),
    [
        # 0.7 · (1 − exp(−600/832)) · exp(−10/80)
        (Sequence(600, 10), (832, 80, 0.70), 0.317404),
        # 1 · (1 − exp(−5000/4300)) · exp(−100/2000)
        (Sequence(5000, 100), (4300, 2000, 1.00), 0.653863),
        # 0.82 · (1 − 2 exp(−2500/1331) + exp(−9000/1331)) · exp(−120/110)
        (Sequence(9000, 120, 2500), (1331, 110, 0.82), 0.191561),
        # 0.82 · (1 − 2 exp(−480/1331) + exp(−2500/1331)) · exp(−12/110): before its null, hence negative
        (Sequence(2500, 12, 480), (1331, 110, 0.82), -0.177652),
    ],
)
def test_signal_is_that_of_the_equation(
    sequence: Sequence, tissue: tuple[float, float, float], expected: float
) -> None:
    assert sequence.signal(*tissue) == pytest.approx(expected, abs=1e-6)


def test_inversion_recovery_nulls_the_tissue_that_its_ti_solves_for() -> None:
    # TI = T1 · ln(2 / (1 + exp(−TR/T1))) for CSF at 3 T, TR = 9000 ms
    assert Sequence(9000, 120, 2480.5158).signal(4300, 2000, 1.0) == pytest.approx(0, abs=1e-6)


def _patient(**parts: tuple[int, int]) -> tuple[Anatomy, Lesion]:
    """Return a brain of pure white matter, grey matter and CSF in thirds, with `parts` in the rows given."""
    wm, gm, csf = (np.zeros(SHAPE, np.float32) for _ in range(3))
    wm[:2], gm[2:4], csf[4:] = 1, 1, 1
    brain = np.ones(SHAPE, bool)
    brain[:, :, 0] = False
    masks: dict[str, NDArray[np.bool_]] = {
        name: np.zeros(SHAPE, bool) for name in ("oedema", "core", "necrosis", "rim", "cavity", "hyperintensity")
    }
    for name, place in parts.items():
        masks[name][place] = True
    tissues = [np.where(brain, tissue, np.float32(0)) for tissue in (wm, gm, csf)]
    return Anatomy(tissues[0], tissues[1], tissues[2], brain), Lesion(**masks)


# A scanner without blur, receive field and noise.
IDEAL = Scanner(3.0, Sequence(600, 10), Sequence(5000, 100), Sequence(9000, 120, 2500), 0.33, 1.0, 0.0, 0.0)


def test_image_of_pure_tissue_is_proportional_to_its_signal() -> None:
    images = IDEAL.image(np.random.default_rng(0), *_patient(), spacing_mm=1.0)

    assert images.dtype == np.int16
    assert not images[..., 0].any()  # outside the brain
    wm, gm, csf = (images[:, x, 3, 3].astype(float) for x in (0, 2, 4))
    # White matter is the brightest on T1 and CSF on T2; FLAIR suppresses CSF. Ratios of the signals by hand:
    assert gm[T1] / wm[T1] == pytest.approx(0.271700 / 0.317404, rel=0.02)
    assert csf[T1] / wm[T1] == pytest.approx(0.129588 / 0.317404, rel=0.02)
    assert csf[T2] / wm[T2] == pytest.approx(0.653863 / 0.200061, rel=0.02)
    assert csf[FLAIR] < 0.05 * gm[FLAIR]
    np.testing.assert_array_equal(images[T1], images[T1CE])


def test_contrast_agent_brightens_the_rim_alone() -> None:
    patient = _patient(rim=(0, 3), oedema=(1, 3))
    strong = IDEAL.image(np.random.default_rng(0), *patient, spacing_mm=1.0)
    weak = replace(IDEAL, enhancement=0.75).image(np.random.default_rng(0), *patient, spacing_mm=1.0)

    # 1 − exp(−600/495) over 1 − exp(−600/1500): T1 of 1500 ms shortened to a third
    assert strong[T1CE, 0, 3, 3] / strong[T1, 0, 3, 3] == pytest.approx(0.702435 / 0.329680, rel=0.02)
    assert weak[T1, 0, 3, 3] < weak[T1CE, 0, 3, 3] < strong[T1CE, 0, 3, 3]
    assert strong[T1CE, 1, 3, 3] == strong[T1, 1, 3, 3]


def test_a_patients_own_relaxation_and_uptake_reach_the_image() -> None:
    anatomy, lesion = _patient(rim=(0, 3), oedema=(1, 3))
    own = replace(lesion, uptake=0.5, factors={"oedema": (1.0, 2.0), "rim": (1.2, 1.0)})
    usual, images = (IDEAL.image(np.random.default_rng(0), anatomy, one, 1.0).astype(float) for one in (lesion, own))

    # Oedema's T2 of 330 ms instead of 165: exp(−100/330) over exp(−100/165), and nothing else of that image
    assert images[T2, 1, 3, 3] / usual[T2, 1, 3, 3] == pytest.approx(0.738577 / 0.545488, rel=0.02)
    assert images[T2, 0, 1, 3] == usual[T2, 0, 1, 3]
    # The rim's T1 of 1800 ms, and 1800 · 0.33^0.5 = 1034 ms after contrast: 1 − exp(−600/T1)
    assert images[T1CE, 0, 3, 3] / images[T1, 0, 3, 3] == pytest.approx(0.440227 / 0.283469, rel=0.02)


def test_unlabelled_hyperintensity_looks_like_oedema_on_flair() -> None:
    patient = _patient(hyperintensity=(0, 3), oedema=(1, 3))
    flair = IDEAL.image(np.random.default_rng(0), *patient, spacing_mm=1.0)[FLAIR].astype(float)
    white_matter = flair[0, 0, 3]
    assert flair[1, 3, 3] > 1.5 * white_matter
    assert flair[0, 3, 3] > 1.5 * white_matter


def test_noise_has_the_strength_asked_for() -> None:
    one, zero = np.ones((24, 24, 24), np.float32), np.zeros((24, 24, 24), np.float32)
    anatomy = Anatomy(one, zero, zero, one > 0)
    none = zero > 0
    lesion = Lesion(none, none, none, none, none, none)
    image = replace(IDEAL, noise=0.05).image(np.random.default_rng(0), anatomy, lesion, 1.0)[T1].astype(float)
    assert image.std() / image.mean() == pytest.approx(0.05, rel=0.05)

"""Labels that a header scales are accepted within the header's own rounding and refused beyond it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hostile import CHANNELS, Array, Spec, assert_right, draw_case, encode, path_of, prepare, write_files

from fedserdiff.data.nifti import read_volume
from fedserdiff.data.releases import RELEASES
from fedserdiff.errors import DataError
from fedserdiff.evaluation.label_maps import score_label_map

VOLUMES = draw_case()
SEG = VOLUMES["seg"]


def _write(folder: Path, stored: Array, spec: Spec) -> None:
    scans = {c: encode(VOLUMES[c], Spec()) for c in CHANNELS[:4]}
    write_files(folder, {**scans, "seg": encode(stored, spec)})


def _moved(by: float, dtype: str = "f8") -> Array:
    return (SEG + by * (SEG > 0)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8, np.int8, np.int32])
def test_labels_saved_through_a_scans_integer_header_are_what_they_were(tmp_path: Path, dtype: type) -> None:
    _write(tmp_path, SEG, Spec())
    scan = nib.load(path_of(tmp_path, "t1", ".nii"))
    scan.header.set_data_dtype(dtype)
    turned = nib.load(path_of(tmp_path, "seg", ".nii"))
    path = path_of(tmp_path, "seg", ".nii")
    nib.save(nib.Nifti1Image(turned.get_fdata(), turned.affine, scan.header), path)

    read = read_volume(path).voxels

    assert np.any(read != np.round(read)), "nibabel has scaled them, and rounded"
    assert_right(prepare(tmp_path), VOLUMES)


def _rounded_to(slope: float, inter: float, dtype: str) -> tuple[Array, Spec]:
    """Return labels as the nearest integers that `slope` and `inter` turn back into them."""
    slope, inter = float(np.float32(slope)), float(np.float32(inter))
    return np.round((SEG - inter) / slope).astype(dtype), Spec(dtype=dtype, slope=slope, inter=inter)


KEPT = {
    "a scan's slope": _rounded_to(0.0153, 0.0, "i2"),
    "a scan's slope and inter": _rounded_to(0.0611, -1024.0, "i4"),
    "a slope below 0": _rounded_to(-4 / 65503, 2.0, "i2"),
    "a slope that is 1 except for its rounding": (SEG, Spec(dtype="u1", slope=1.0000153)),
    "64-bit floats, a millionth off": (_moved(1e-6), Spec(dtype="f8")),
    "32-bit floats, a millionth below": (_moved(-1e-6, "f4"), Spec(dtype="f4")),
    "floats that were saved through 16 bits before": (_moved(1.5e-5, "f4"), Spec(dtype="f4")),
    "floats with a slope": (SEG * 10.0, Spec(dtype="f4", slope=float(np.float32(0.1)))),
    "no slope": (SEG, Spec(dtype="u1", slope=0.0, inter=7.0)),
    "a slope that is no number": (SEG, Spec(dtype="i2", slope=float("nan"), inter=float("nan"))),
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_rounding_makes_of_labels_is_read_as_the_labels(tmp_path: Path, kind: str) -> None:
    _write(tmp_path, *KEPT[kind])
    assert_right(prepare(tmp_path), VOLUMES)


def _one_stored_step_off() -> tuple[Array, Spec]:
    stored, spec = _rounded_to(4 / 65503, 2.0, "i2")
    stored[tuple(np.argwhere(SEG == 1)[0])] += 1
    return stored, spec


INTERPOLATED = "labels are not whole numbers: was the segmentation interpolated?"
SCALED = "labels are not whole numbers after the header's scaling (scl_slope "
REFUSED = {
    "interpolated": (SEG * 0.7, Spec(dtype="f4"), INTERPOLATED),
    "off by a thousandth": (_moved(1e-3), Spec(dtype="f8"), INTERPOLATED),
    "one stored step off": (*_one_stored_step_off(), SCALED),
    "interpolated, then scaled": (SEG * 5000, Spec(dtype="i2", slope=1e-4), SCALED),
    "a scan's slope over the labels": (SEG, Spec(dtype="u1", slope=0.7), SCALED),
    "a small slope over the labels": (SEG, Spec(dtype="u1", slope=0.2), SCALED),
    "a slope of 1.02": (SEG, Spec(dtype="u1", slope=1.02), SCALED),
    "a whole number more than a label": (_moved(1.0), Spec(dtype="f4"), "label 3, 5 is not one of brats2021's"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_rounding_does_not_explain_is_refused_and_says_whether_it_was_scaled(tmp_path: Path, kind: str) -> None:
    stored, spec, reason = REFUSED[kind]
    _write(tmp_path, stored, spec)
    with pytest.raises(DataError) as caught:
        prepare(tmp_path)
    assert str(caught.value).startswith(f"{path_of(tmp_path, 'seg', '.nii')}: {reason}")


def test_large_labels_are_not_drowned_by_rounding(tmp_path: Path) -> None:
    _write(tmp_path, np.where(SEG > 0, 60000.5, 0), Spec(dtype="f8"))
    with pytest.raises(DataError, match="labels are not whole numbers"):
        prepare(tmp_path)


def test_a_prediction_that_was_saved_through_16_bits_scores_as_it_is(tmp_path: Path) -> None:
    truth, prediction = tmp_path / "truth.nii", tmp_path / "prediction.nii"
    truth.write_bytes(encode(SEG, Spec()))
    prediction.write_bytes(encode(*_rounded_to(4 / 65503, 2.0, "i2")))
    scores = score_label_map(prediction, truth, RELEASES["brats2021"])
    assert {region: (one.dice, one.hd95) for region, one in scores.items()} == dict.fromkeys(scores, (1.0, 0.0))

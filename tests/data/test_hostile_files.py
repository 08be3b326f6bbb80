"""Every file gives either a correct result or an error that names the file and the reason."""

import itertools
import re
import shutil
import struct
import tempfile
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from damages import DAMAGED, DAMAGES, VOLUMES, with_value
from hostile import (
    CHANNELS,
    DTYPES,
    Array,
    Spec,
    assert_right,
    encode,
    path_of,
    prepare,
    write_files,
    zipped,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fedserdiff.data.nifti import MAX_VOXELS
from fedserdiff.data.preprocess import PreparedCase
from fedserdiff.errors import DataError

many = partial(settings, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
channels = st.sampled_from(CHANNELS)
AXES = [a + b + c for a in "RLAPSI" for b in "RLAPSI" for c in "RLAPSI" if {*a, *b, *c} & {*"RL"}]
AXES = [a for a in AXES if {*a} & {*"AP"} and {*a} & {*"SI"}]  # the 48 ways to store a volume

specs = st.builds(
    Spec,
    dtype=st.sampled_from(sorted(DTYPES)),
    order=st.sampled_from("<>"),
    version=st.sampled_from([1, 2]),
    axes=st.sampled_from(AXES),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (1.0, 1.5, 2.0), (0.4, 0.3, 0.5), (90.0, 90.0, 99.0)]),
    turned=st.sampled_from([(0.0, 0.0, 0.0), (0.3, -0.2, 0.1), (0.0, 0.0, 0.5)]),
    form=st.sampled_from(["sform", "qform"]),
    slope=st.sampled_from([1.0, 0.0, float("nan")]),
    inter=st.just(0.0),
    units=st.sampled_from([0, 1, 2, 3, 10]),  # unknown, metres, mm, micrometres, mm and seconds
    extension=st.sampled_from([b"", struct.pack("<ii", 2**31 - 1, 6) + bytes(8), struct.pack("<ii", -16, 4) * 4]),
    dims_of_one=st.integers(0, 4),
)


def _refusal(folder: Path) -> str:
    """Return the text with which the one case under `folder` is refused."""
    with pytest.raises(DataError) as caught:
        prepare(folder)
    return str(caught.value)


def _outcome(folder: Path) -> PreparedCase | str:
    """Return the one case under `folder`, or the text with which it is refused."""
    try:
        return prepare(folder)
    except DataError as error:
        return str(error)


def _in_folder(check: Callable[[Path], None]) -> None:
    """Run a check in a folder that goes with it: hypothesis runs many within one test."""
    folder = Path(tempfile.mkdtemp(prefix="scans-[ü]\n"))  # a name is only a name
    try:
        check(folder)
    finally:
        shutil.rmtree(folder)


@many(max_examples=150)
@given(st.fixed_dictionaries(dict.fromkeys(CHANNELS, specs)), specs, st.booleans())
def test_whatever_way_scans_are_stored_the_result_is_that_of_the_same_voxels(
    stored: dict[str, Spec], place: Spec, compressed: bool
) -> None:
    def check(folder: Path) -> None:
        where = {"spacing": place.spacing, "turned": place.turned}  # a case's files lie in one place
        files = {c: encode(VOLUMES[c], Spec(**{**vars(spec), **where})) for c, spec in stored.items()}
        extension = ".nii.gz" if place.version == 1 else ".nii"  # names say nothing of the content
        write_files(folder, {c: zipped(f) if compressed else f for c, f in files.items()}, extension)
        assert_right(prepare(folder), VOLUMES, place.spacing)

    _in_folder(check)


@many(max_examples=40)
@given(
    st.sampled_from(["i2", "u1", "i8", "f4", "f8"]),
    st.one_of(st.floats(1e-30, 1e30), st.floats(-1e30, -1e-30)).map(lambda s: float(np.float32(s))),
    st.sampled_from([0.0, 1.0, -3.5, 100.0]),
)
def test_scaled_voxels_are_what_the_header_makes_of_them(dtype: str, slope: float, ratio: float) -> None:
    def check(folder: Path) -> None:
        inter = float(np.float32(slope * ratio))
        spec = Spec(dtype=dtype, slope=slope, inter=inter)
        scans = {c: encode(VOLUMES[c], spec) for c in CHANNELS[:4]}
        write_files(folder, {**scans, "seg": encode(VOLUMES["seg"], Spec())})
        assert_right(prepare(folder), {c: VOLUMES[c] * slope + inter for c in scans} | {"seg": VOLUMES["seg"]})

    _in_folder(check)


@pytest.mark.parametrize("channel", ["t1", "seg"])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused_by_name_and_reason(tmp_path: Path, name: str, channel: str) -> None:
    damage, reason = DAMAGES[name]
    for version, compressed in itertools.product((1, 2), (True, False)):
        spec, folder = Spec(version=version), tmp_path / f"nifti{version}{'.gz' * compressed}"
        files = {c: encode(VOLUMES[c], spec) for c in CHANNELS}
        files[channel] = damage(files[channel], spec)
        write_files(folder, {c: zipped(f) if compressed else f for c, f in files.items()}, ".nii.gz")
        assert re.match(f"{re.escape(str(path_of(folder, channel)))}: .*({reason})", _refusal(folder))


@many(max_examples=150)
@given(specs, channels, st.sampled_from(sorted(DAMAGES)), st.booleans())
def test_damage_is_found_whatever_way_the_file_is_stored(
    stored: Spec, channel: str, name: str, compressed: bool
) -> None:
    def check(folder: Path) -> None:
        files = {c: encode(VOLUMES[c], stored) for c in CHANNELS}
        files[channel] = DAMAGES[name][0](files[channel], stored)
        write_files(folder, {c: zipped(f) if compressed else f for c, f in files.items()})
        assert _refusal(folder).startswith(f"{path_of(folder, channel, '.nii')}: ")

    _in_folder(check)


@many(max_examples=120)
@given(channels, st.integers(0, 347), st.integers(0, 255), st.sampled_from("<>"))
def test_a_changed_byte_of_a_header_is_refused_or_read_as_nibabel_reads_it(
    channel: str, offset: int, byte: int, order: str
) -> None:
    def check(folder: Path) -> None:
        files = {c: encode(VOLUMES[c], Spec(order=order)) for c in CHANNELS}
        raw = files[channel]
        files[channel] = raw[:offset] + bytes([byte]) + raw[offset + 1 :]
        write_files(folder, files)
        outcome = _outcome(folder)
        if isinstance(outcome, str):
            assert outcome.startswith(f"{folder}/")
            assert files[channel] != raw
            return
        images = {c: nib.as_closest_canonical(nib.load(path_of(folder, c, ".nii"))).get_fdata() for c in CHANNELS}
        images["seg"] = np.round(images["seg"], 3)  # a last bit of the slope is rounding, as test_label_rounding has it
        assert_right(outcome, {c: np.squeeze(image) for c, image in images.items()})

    _in_folder(check)


@many(max_examples=120)
@given(channels, st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.booleans())
def test_a_changed_byte_of_a_compressed_file_is_refused_or_changes_nothing(
    channel: str, where: float, change: int, truncated: bool
) -> None:
    def check(folder: Path) -> None:
        files = {c: zipped(encode(VOLUMES[c], Spec())) for c in CHANNELS}
        raw = files[channel]
        offset = int(where * len(raw))
        files[channel] = raw[:offset] if truncated else raw[:offset] + bytes([raw[offset] ^ change]) + raw[offset + 1 :]
        write_files(folder, files)
        outcome = _outcome(folder)
        if isinstance(outcome, str):
            assert outcome.startswith(f"{path_of(folder, channel, '.nii')}: ")
            return
        assert not truncated
        assert offset < 10  # gzip's own header: time and system of the writer
        assert_right(outcome, VOLUMES)

    _in_folder(check)


def test_members_of_one_compressed_file_are_read_as_one(tmp_path: Path) -> None:
    files = {c: encode(VOLUMES[c], Spec()) for c in CHANNELS}
    parts = {c: b"".join(zipped(f[i : i + 500]) for i in range(0, len(f), 500)) for c, f in files.items()}
    write_files(tmp_path, {c: part + bytes(64) for c, part in parts.items()}, ".nii.gz")  # gzip may be padded with 0
    assert_right(prepare(tmp_path), VOLUMES)


ZEROS = zipped(bytes(1 << 24)) * 256  # 4 GiB in 4 MiB


@pytest.mark.parametrize(
    ("dim", "offset", "reason"),
    [
        ((3, 12, 14, 10), 352, "it holds more than the 3712 bytes that its header declares"),
        ((3, 12, 14, 10), 2**29, "its header says that voxels begin at byte 5.36871e+08"),
        ((3, 32767, 32767, 32767), 352, f"more than {MAX_VOXELS} voxels"),
        ((4, 32767, 32767, 32767, 32767), 352, "4 dimensions"),
        ((3, 12, 14, 10), 2**26, "it holds more than"),
    ],
)
@pytest.mark.parametrize("channel", ["t1", "seg"])
def test_a_file_that_would_fill_the_memory_is_refused_before_it_does(
    tmp_path: Path, channel: str, dim: tuple[int, ...], offset: int, reason: str
) -> None:
    fields = {("dim", i): n for i, n in enumerate(dim)} | {("vox_offset", 0): offset}
    files = {c: zipped(encode(VOLUMES[c], Spec())) for c in CHANNELS}
    files[channel] = zipped(encode(VOLUMES[channel], Spec(fields=fields))) + ZEROS
    write_files(tmp_path, files)
    tracemalloc.start()
    text = _refusal(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert text.startswith(f"{path_of(tmp_path, channel, '.nii')}: ")
    assert reason in text
    assert peak < 1 << 25


@pytest.mark.parametrize("compressed", [True, False], ids=["gz", "plain"])
def test_memory_is_not_taken_for_voxels_that_are_not_there(tmp_path: Path, compressed: bool) -> None:
    raw = encode(VOLUMES["t1"], Spec(fields={("dim", 1): 512, ("dim", 2): 512, ("dim", 3): 512}))
    files = {**{c: encode(VOLUMES[c], Spec()) for c in CHANNELS}, "t1": zipped(raw) if compressed else raw}
    write_files(tmp_path, files)
    tracemalloc.start()
    text = _refusal(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"{path_of(tmp_path, 't1', '.nii')}: {DAMAGED}" in text
    assert peak < 1 << 25


def test_a_file_larger_than_any_scan_is_refused_unread(tmp_path: Path) -> None:
    write_files(tmp_path, {c: encode(VOLUMES[c], Spec()) for c in CHANNELS})
    path = path_of(tmp_path, "t2", ".nii")
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # sparse: it takes no room
    assert _refusal(tmp_path).startswith(f"{path}: {1 << 40} bytes, more than a volume of {MAX_VOXELS} voxels")


def _seg(change: Callable[[Array], Array], dtype: str) -> dict[str, bytes]:
    files = {c: encode(VOLUMES[c], Spec()) for c in CHANNELS}
    return {**files, "seg": encode(change(VOLUMES["seg"].astype(dtype)), Spec(dtype=dtype))}


@pytest.mark.parametrize(
    ("change", "dtype", "reason"),
    [
        (lambda v: v * 0.7, "f4", "labels are not whole numbers: was the segmentation interpolated?"),
        (with_value(1 + 1e-3), "f8", "labels are not whole numbers"),
        (with_value(-1), "i2", "label -1 is not one of brats2021's (0, 1, 2, 4)"),
        (with_value(3), "f8", "label 3 is not one of brats2021's (0, 1, 2, 4)"),
        (with_value(3), "u8", "label 3 is not one of brats2021's"),
        (with_value(255), "u1", "label 255 is not one of"),
        (with_value(2**64 - 1), "u8", f"label {2**64 - 1} is not one of"),
        (with_value(2**63 + 1), "u8", f"label {2**63 + 1} is not one of"),
        (with_value(-(2**63)), "i8", f"label {-(2**63)} is not one of"),
        (with_value(2**32 + 4), "i8", f"label {2**32 + 4} is not one of"),
        (with_value(2**24 + 1), "i4", f"label {2**24 + 1} is not one of"),
        (with_value(1e30), "f8", "label 1e+30 is not one of"),
        (lambda v: np.arange(v.size, dtype=v.dtype).reshape(v.shape), "i2", "1680 different labels: is it a scan"),
    ],
)
def test_labels_that_are_not_the_releases_are_refused(
    tmp_path: Path, change: Callable[[Array], Array], dtype: str, reason: str
) -> None:
    write_files(tmp_path, _seg(change, dtype))
    assert _refusal(tmp_path).startswith(f"{path_of(tmp_path, 'seg', '.nii')}: {reason}")


def test_a_segmentation_without_a_tumour_is_a_right_result(tmp_path: Path) -> None:
    write_files(tmp_path, _seg(np.zeros_like, "u1"))
    assert_right(prepare(tmp_path), {**VOLUMES, "seg": VOLUMES["seg"] * 0})


@pytest.mark.parametrize("value", [0.1, -1 / 3, 12345.678, 3e38])
def test_one_value_in_every_voxel_of_a_modality_is_refused_for_all_that_rounding_makes_of_it(
    tmp_path: Path, value: float
) -> None:
    files = {c: encode(np.full((60, 60, 60), value), Spec(dtype="f8")) for c in CHANNELS[:4]}
    write_files(tmp_path, {**files, "seg": encode(np.zeros((60, 60, 60), np.int64), Spec())})
    assert "_t1.nii: every brain voxel has the same value" in _refusal(tmp_path)


def test_values_that_32_bit_floats_round_alike_are_told_apart(tmp_path: Path) -> None:
    volumes = {c: VOLUMES[c] + 10**12 for c in CHANNELS[:4]} | {"seg": VOLUMES["seg"]}
    write_files(tmp_path, {c: encode(volume, Spec(dtype="i8")) for c, volume in volumes.items()})
    with pytest.raises(DataError, match="every brain voxel has the same value"):
        prepare(tmp_path)  # a spread of 3e-11 of the values
    shutil.rmtree(tmp_path / "BraTS2021_00000")
    volumes = {c: VOLUMES[c] + 10**9 for c in CHANNELS[:4]} | {"seg": VOLUMES["seg"]}
    write_files(tmp_path, {c: encode(volume, Spec(dtype="i8")) for c, volume in volumes.items()})
    assert_right(prepare(tmp_path), volumes)


def test_a_volume_of_one_voxel_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {c: encode(VOLUMES[c][5:6, 5:6, 5:6] * 0 + 4, Spec()) for c in CHANNELS})
    assert f"{path_of(tmp_path, 't1', '.nii')}: every brain voxel has the same value" in _refusal(tmp_path)


def test_a_volume_of_one_slice_is_a_right_result(tmp_path: Path) -> None:
    volumes = {c: volume[:, :, 4:5] for c, volume in VOLUMES.items()}
    write_files(tmp_path, {c: encode(volume, Spec()) for c, volume in volumes.items()})
    assert_right(prepare(tmp_path), volumes)


def test_a_brain_that_vanishes_on_the_working_grid_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {c: encode(VOLUMES[c], Spec(spacing=(0.02, 0.02, 0.02))) for c in CHANNELS})
    assert f"{tmp_path}/BraTS2021_00000: nothing is left of a 0.16 × 0.22 × 0.12 mm brain" in _refusal(tmp_path)


def test_scans_a_fraction_of_a_degree_apart_are_not_aligned(tmp_path: Path) -> None:
    files = {c: encode(VOLUMES[c], Spec()) for c in CHANNELS}
    write_files(tmp_path, {**files, "t2": encode(VOLUMES["t2"], Spec(turned=(0.0, 0.0, 0.009)))})
    assert _refusal(tmp_path).endswith("t2.nii: affine differs from that of BraTS2021_00000_t1.nii: "
                                       "the volumes are not aligned")  # fmt: skip


def test_scans_in_metres_and_micrometres_lie_where_those_in_millimetres_do(tmp_path: Path) -> None:
    units = {"t1": 1, "t1ce": 2, "t2": 3, "flair": 0, "seg": 10}
    write_files(tmp_path, {c: encode(VOLUMES[c], Spec(units=unit)) for c, unit in units.items()})
    assert_right(prepare(tmp_path), VOLUMES)


@pytest.mark.parametrize("form", ["sform", "qform"])
@pytest.mark.parametrize("version", [1, 2])
def test_files_written_here_mean_the_same_to_nibabel(tmp_path: Path, version: int, form: str) -> None:
    spec = Spec(version=version, form=form, slope=2.0, inter=5.0, turned=(0.3, -0.2, 0.1), spacing=(1.0, 1.5, 2.0))
    write_files(tmp_path, {"t1": encode(VOLUMES["t1"], spec)})
    image = nib.as_closest_canonical(nib.load(path_of(tmp_path, "t1", ".nii")))
    np.testing.assert_array_equal(image.get_fdata(), VOLUMES["t1"] * 2 + 5)
    turn = Rotation.from_rotvec(spec.turned).as_matrix()
    np.testing.assert_allclose(image.affine[:3], np.c_[turn * spec.spacing, spec.origin], atol=1e-4)


def test_a_handedness_of_0_is_right_handed_as_the_standard_says(tmp_path: Path) -> None:
    spec = Spec(form="qform", axes="RAS", fields={("pixdim", 0): 0.0})
    write_files(tmp_path, {c: encode(VOLUMES[c], spec) for c in CHANNELS})
    assert_right(prepare(tmp_path), VOLUMES)


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    files = {c: encode(VOLUMES[c], Spec()) for c in CHANNELS}
    write_files(tmp_path, {c: zipped(f) if c in ("t1", "seg") else f for c, f in files.items()}, ".nii")
    assert_right(prepare(tmp_path), VOLUMES)

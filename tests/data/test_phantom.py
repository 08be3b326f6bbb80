import os
from pathlib import Path
from typing import get_args

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from fedserdiff.data.cases import Case, find_cases
from fedserdiff.data.phantom.anatomy import random_anatomy
from fedserdiff.data.phantom.generate import case_names, write_phantom_hospital
from fedserdiff.data.phantom.hospitals import phantom_hospital
from fedserdiff.data.preprocess import prepare_case
from fedserdiff.data.releases import RELEASES
from fedserdiff.settings.groups import PhantomStream

RELEASE_OF_SITE = ("brats2020", "brats2021", "brats2023-gli", "brats2024-gli")
STREAMS: tuple[PhantomStream, ...] = get_args(PhantomStream)
SUFFIXES = {"brats2020": "_", "brats2021": "_", "brats2023-gli": "-", "brats2024-gli": "-"}


def _seg(case: Case) -> NDArray[np.uint8]:
    return np.asarray(nib.load(case.seg).dataobj)


def _voxels(folder: Path) -> dict[str, NDArray[np.generic]]:
    return {path.name: np.asarray(nib.load(path).dataobj) for path in sorted(folder.rglob("*.nii.gz"))}


@pytest.mark.parametrize("index", range(4))
def test_labels_on_disk_are_the_regions_that_the_loader_reads(phantoms: tuple[Path, ...], index: int) -> None:
    release = RELEASE_OF_SITE[index]
    enhancing = 4 if index < 2 else 3
    cases = find_cases(phantoms[index], RELEASES[release])

    assert len(cases) == 3
    for case in cases:
        seg = _seg(case)
        assert set(np.unique(seg)) <= ({0, 1, 2, 4} if index < 2 else {0, 1, 2, 3, 4} if index == 3 else {0, 1, 2, 3})
        assert case.seg.name == f"{case.name}{SUFFIXES[release]}seg.nii.gz"
        regions = prepare_case(case, (32, 32, 32), 8.0).truth.sum((1, 2, 3)).tolist()
        assert regions == [
            np.isin(seg, (1, enhancing)).sum(),
            np.isin(seg, (1, 2, enhancing)).sum(),
            np.count_nonzero(seg == enhancing),
        ]
    assert any((_seg(case) == enhancing).any() for case in cases)


def test_cavity_of_2024_is_on_disk_and_in_no_region(phantoms: tuple[Path, ...]) -> None:
    cases = find_cases(phantoms[3], RELEASES["brats2024-gli"])
    with_cavity = [case for case in cases if (_seg(case) == 4).any()]
    assert with_cavity
    for case in with_cavity:
        truth = prepare_case(case, (32, 32, 32), 8.0).truth
        assert truth.any(0).sum() == np.isin(_seg(case), (1, 2, 3)).sum()


def test_files_are_laid_out_as_brats_publishes_them(phantoms: tuple[Path, ...]) -> None:
    case = find_cases(phantoms[0], RELEASES["brats2020"])[0]
    for path in (*case.images, case.seg):
        image = nib.load(path)
        assert image.shape == (30, 30, 19)  # 240 × 240 × 155 at 8 mm
        assert image.header.get_zooms() == (8, 8, 8)
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")


def test_all_modalities_are_skull_stripped_alike_and_hold_the_tumour(phantoms: tuple[Path, ...]) -> None:
    for folder, release in zip(phantoms, RELEASE_OF_SITE, strict=True):
        for case in find_cases(folder, RELEASES[release]):
            brains = [np.asarray(nib.load(path).dataobj) > 0 for path in case.images]
            assert all((brain == brains[0]).all() for brain in brains)
            assert 1.0 < brains[0].sum() * 8.0**3 / 1e6 < 1.9  # litres, as in adults
            assert not (_seg(case).astype(bool) & ~brains[0]).any()
            assert (_seg(case) == 2).any()


def test_same_seed_gives_the_same_voxels_and_another_seed_others(tmp_path: Path, phantoms: tuple[Path, ...]) -> None:
    again = _voxels(write_phantom_hospital(tmp_path / "again", "contrast", 0, 3, 8.0, seed=0))
    other = _voxels(write_phantom_hospital(tmp_path / "other", "contrast", 0, 3, 8.0, seed=1))

    first = _voxels(phantoms[0])

    assert first.keys() == again.keys() == other.keys()
    assert len(first) == 15
    for name, volume in first.items():
        assert volume.dtype == again[name].dtype
        assert volume.tobytes() == again[name].tobytes()
        assert volume.tobytes() != other[name].tobytes()


def test_patients_of_one_hospital_differ(phantoms: tuple[Path, ...]) -> None:
    segs = {_seg(case).tobytes() for case in find_cases(phantoms[0], RELEASES["brats2020"])}
    assert len(segs) == 3


def test_more_patients_leave_the_first_ones_as_they_are(tmp_path: Path, phantoms: tuple[Path, ...]) -> None:
    fewer = _voxels(write_phantom_hospital(tmp_path, "contrast", 1, 2, 8.0, seed=0))
    more = _voxels(phantoms[1])
    assert len(fewer) == 10
    assert all(volume.tobytes() == more[name].tobytes() for name, volume in fewer.items())


def test_follow_up_scan_shows_the_same_brain(tmp_path: Path) -> None:
    folder = write_phantom_hospital(tmp_path, "contrast", 2, 8, 8.0, seed=0)
    cases = find_cases(folder, RELEASES["brats2023-gli"])
    brains = [np.asarray(nib.load(case.images[0]).dataobj) > 0 for case in cases]

    assert [case.name[-3:] for case in cases] == ["000"] * 8 + ["001"]
    assert cases[7].patient == cases[8].patient
    assert (brains[7] == brains[8]).all()
    assert (brains[6] != brains[7]).any()
    assert (_seg(cases[7]) != _seg(cases[8])).any()


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("index", range(12))
def test_every_hospital_of_a_stream_of_twelve_loads(tmp_path: Path, index: int, stream: PhantomStream) -> None:
    release = RELEASES[phantom_hospital(stream, index).release]
    for case in find_cases(write_phantom_hospital(tmp_path, stream, index, 2, 8.0, seed=3), release):
        prepared = prepare_case(case, (16, 24, 16), 8.0)
        assert prepared.truth[1].any()
        assert np.isfinite(prepared.image).all()


@pytest.mark.parametrize("stream", STREAMS)
def test_no_two_hospitals_name_the_same_patient(stream: PhantomStream) -> None:
    seen: set[str | None] = set()
    for index in range(12):
        release = phantom_hospital(stream, index).release
        patients = {RELEASES[release].patient_of(name) for _, _, name in case_names(release, index, 40)}
        assert None not in patients
        assert len(patients) == 40
        assert not patients & seen
        seen |= patients


@pytest.mark.parametrize("stream", STREAMS)
def test_hospitals_are_the_same_for_everyone_and_differ_from_each_other(stream: PhantomStream) -> None:
    assert [phantom_hospital(stream, i) for i in range(12)] == [phantom_hospital(stream, i) for i in range(12)]
    assert len({phantom_hospital(stream, i).scanner for i in range(12)}) == 12
    assert tuple(phantom_hospital(stream, i).release for i in range(4)) == RELEASE_OF_SITE


def test_streams_lie_side_by_side_and_show_the_same_brains_differently(tmp_path: Path) -> None:
    contrast, patients = (write_phantom_hospital(tmp_path, stream, 0, 2, 8.0, seed=0) for stream in STREAMS)
    assert contrast != patients
    before, after = _voxels(contrast), _voxels(patients)
    assert before.keys() == after.keys()
    for name, volume in before.items():
        if "_seg" not in name:
            assert ((volume > 0) == (after[name] > 0)).all()
        assert (volume != after[name]).any()


def test_second_call_leaves_the_files_alone(tmp_path: Path) -> None:
    folder = write_phantom_hospital(tmp_path, "contrast", 0, 2, 8.0, seed=0)
    for path in folder.rglob("*.nii.gz"):
        os.utime(path, ns=(10**18, 10**18))
    seen: list[tuple[int, int]] = []

    assert (
        write_phantom_hospital(tmp_path, "contrast", 0, 2, 8.0, 0, lambda done, total: seen.append((done, total)))
        == folder
    )

    assert {path.stat().st_mtime_ns for path in folder.rglob("*.nii.gz")} == {10**18}
    assert seen == [(2, 2)]


def test_interrupted_writing_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert [".partial-" in entry.name for entry in tmp_path.iterdir()] == [True]
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom_hospital(tmp_path, "contrast", 0, 2, 8.0, 0, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_leftover_of_a_killed_run_with_this_process_number_is_no_obstacle(tmp_path: Path) -> None:
    folder = write_phantom_hospital(tmp_path, "contrast", 0, 2, 8.0, seed=0)
    leftover = folder.rename(tmp_path / f"{folder.name}.partial-{os.getpid()}")
    (leftover / "BraTS20_Training_001" / "BraTS20_Training_001_seg.nii.gz").unlink()

    assert len(list(write_phantom_hospital(tmp_path, "contrast", 0, 2, 8.0, seed=0).rglob("*.nii.gz"))) == 10


def test_tissues_fill_the_brain_and_nothing_else() -> None:
    anatomy = random_anatomy(np.random.default_rng(0), (30, 30, 19), 8.0)
    total = anatomy.wm + anatomy.gm + anatomy.csf
    np.testing.assert_allclose(total, anatomy.brain, atol=1e-5)
    for tissue in (anatomy.wm, anatomy.gm, anatomy.csf):
        assert tissue.min() >= 0
        assert 0.03 < tissue[anatomy.brain].mean() < 0.7

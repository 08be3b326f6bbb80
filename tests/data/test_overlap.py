from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from fedserdiff.data.cache import CachedCase
from fedserdiff.data.cases import find_cases
from fedserdiff.data.overlap import Overlap, find_overlap
from fedserdiff.data.preprocess import prepare_case
from fedserdiff.data.releases import RELEASES

Volumes = dict[str, NDArray[Any]]
MakeSite = Callable[..., list[CachedCase]]


@pytest.fixture
def make_site(tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]) -> MakeSite:
    """Make a site of cases whose voxels are drawn from a seed: one seed is one scan, whatever its name."""

    def make(folder: str, release: str, seeds: dict[str, int], axes: str = "LPS") -> list[CachedCase]:
        for name, seed in seeds.items():
            volumes = draw_volumes(seed=seed, enhancing=3 if "gli" in release else 4)
            write_case(tmp_path / folder, volumes, release, name=name, axes=axes)
        convention = RELEASES[release]
        found = find_cases(tmp_path / folder, convention)
        return [CachedCase(case, prepare_case(case, convention, (16, 16, 16), 1.0)) for case in found]

    return make


def test_scan_under_another_releases_name_and_orientation_stays_at_its_first_site(make_site: MakeSite) -> None:
    old = make_site("old", "brats2021", {"BraTS2021_00000": 0, "BraTS2021_00001": 1})
    new = make_site("new", "brats2023-gli", {"BraTS-GLI-00005-000": 1, "BraTS-GLI-00006-000": 2}, axes="RAS")

    assert find_overlap({"a": old, "b": new}) == [Overlap("b", "BraTS-GLI-00005-000", "a", "BraTS2021_00001")]
    assert find_overlap({"b": new, "a": old}) == [Overlap("a", "BraTS2021_00001", "b", "BraTS-GLI-00005-000")]


def test_sites_of_different_patients_do_not_overlap(make_site: MakeSite) -> None:
    old = make_site("old", "brats2021", {"BraTS2021_00000": 0, "BraTS2021_00001": 1})
    new = make_site("new", "brats2021", {"BraTS2021_00002": 2})
    assert find_overlap({"a": old, "b": new}) == []


def test_other_scan_of_a_known_patient_is_left_out(make_site: MakeSite) -> None:
    first = make_site("first", "brats2023-gli", {"BraTS-GLI-00005-000": 0})
    second = make_site("second", "brats2024-gli", {"BraTS-GLI-00005-001": 1})
    assert find_overlap({"a": first, "b": second}) == [Overlap("b", "BraTS-GLI-00005-001", "a", "BraTS-GLI-00005-000")]


def test_all_scans_of_a_patient_share_the_fate_of_one(make_site: MakeSite) -> None:
    first = make_site("first", "brats2021", {"BraTS2021_00000": 0})
    seeds = {"BraTS-GLI-00005-000": 1, "BraTS-GLI-00005-001": 0, "BraTS-GLI-00005-002": 2, "BraTS-GLI-00006-000": 3}
    second = make_site("second", "brats2023-gli", seeds)

    left_out = [overlap.case for overlap in find_overlap({"a": first, "b": second})]

    assert left_out == ["BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00005-002"]


def test_follow_ups_within_a_site_are_no_overlap(make_site: MakeSite) -> None:
    site = make_site("site", "brats2023-gli", {"BraTS-GLI-00005-000": 0, "BraTS-GLI-00005-001": 1})
    assert find_overlap({"a": site}) == []


def test_scan_under_two_patients_names_in_one_site_is_kept_once(make_site: MakeSite) -> None:
    site = make_site("site", "brats2021", {"BraTS2021_00000": 0, "BraTS2021_00001": 0})
    assert find_overlap({"a": site}) == [Overlap("a", "BraTS2021_00001", "a", "BraTS2021_00000")]


def test_third_site_is_referred_to_the_first(make_site: MakeSite) -> None:
    sites = {
        "a": make_site("1", "brats2020", {"BraTS20_Training_001": 0}),
        "b": make_site("2", "brats2021", {"BraTS2021_00000": 0}),
        "c": make_site("3", "brats2023-gli", {"BraTS-GLI-00005-000": 0}),
    }
    assert [str(overlap) for overlap in find_overlap(sites)] == [
        "b: BraTS2021_00000 is BraTS20_Training_001, which a brought first",
        "c: BraTS-GLI-00005-000 is BraTS20_Training_001, which a brought first",
    ]

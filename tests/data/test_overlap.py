from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedserdiff.data.cache import CachedCase, cached_cases
from fedserdiff.data.cases import Case, find_cases
from fedserdiff.data.name_mapping import read_name_mapping
from fedserdiff.data.overlap import (
    ANOTHER_SCAN,
    NAME_MAPPING,
    PATIENT_ID,
    VOXELS,
    Overlap,
    find_overlap,
    overlap_record,
)
from fedserdiff.data.preprocess import CaseArrays, Geometry, prepare_case
from fedserdiff.data.releases import RELEASES
from fedserdiff.federation import phantom_federation
from fedserdiff.settings.sources import make_settings

Volumes = dict[str, NDArray[Any]]
MakeSite = Callable[..., list[CachedCase]]


@pytest.fixture
def make_site(tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]) -> MakeSite:
    """Make a site of cases whose voxels are drawn from a seed: the same seed is the same scan, under any name."""

    def make(folder: str, release: str, seeds: dict[str, int], axes: str = "LPS") -> list[CachedCase]:
        for name, seed in seeds.items():
            volumes = draw_volumes(seed=seed, enhancing=3 if "gli" in release else 4)
            write_case(tmp_path / folder, volumes, release, name=name, axes=axes)
        convention = RELEASES[release]
        found = find_cases(tmp_path / folder, convention)
        return [CachedCase(case, prepare_case(case, (16, 16, 16), 1.0)) for case in found]

    return make


def test_scan_under_another_releases_name_and_orientation_stays_at_its_first_site(make_site: MakeSite) -> None:
    old = make_site("old", "brats2021", {"BraTS2021_00000": 0, "BraTS2021_00001": 1})
    new = make_site("new", "brats2023-gli", {"BraTS-GLI-00005-000": 1, "BraTS-GLI-00006-000": 2}, axes="RAS")

    assert find_overlap({"a": old, "b": new}) == [Overlap("b", "BraTS-GLI-00005-000", "a", "BraTS2021_00001", VOXELS)]
    assert find_overlap({"b": new, "a": old}) == [Overlap("a", "BraTS2021_00001", "b", "BraTS-GLI-00005-000", VOXELS)]


def test_sites_of_different_patients_do_not_overlap(make_site: MakeSite) -> None:
    old = make_site("old", "brats2021", {"BraTS2021_00000": 0, "BraTS2021_00001": 1})
    new = make_site("new", "brats2021", {"BraTS2021_00002": 2})
    assert find_overlap({"a": old, "b": new}) == []


def test_other_scan_of_a_known_patient_is_left_out(make_site: MakeSite) -> None:
    first = make_site("first", "brats2023-gli", {"BraTS-GLI-00005-000": 0})
    second = make_site("second", "brats2024-gli", {"BraTS-GLI-00005-001": 1})
    (overlap,) = find_overlap({"a": first, "b": second})

    assert overlap == Overlap("b", "BraTS-GLI-00005-001", "a", "BraTS-GLI-00005-000", PATIENT_ID)
    assert str(overlap) == (
        "b: BraTS-GLI-00005-001 is of the same patient as BraTS-GLI-00005-000, which a brought first (same patient id)"
    )


def test_all_scans_of_a_patient_share_the_fate_of_one(make_site: MakeSite) -> None:
    first = make_site("first", "brats2021", {"BraTS2021_00000": 0})
    seeds = {"BraTS-GLI-00005-000": 1, "BraTS-GLI-00005-001": 0, "BraTS-GLI-00005-002": 2, "BraTS-GLI-00006-000": 3}
    second = make_site("second", "brats2023-gli", seeds)

    left_out = [(overlap.case, overlap.found_by) for overlap in find_overlap({"a": first, "b": second})]

    assert left_out == [
        ("BraTS-GLI-00005-000", ANOTHER_SCAN),
        ("BraTS-GLI-00005-001", VOXELS),
        ("BraTS-GLI-00005-002", ANOTHER_SCAN),
    ]


def test_follow_ups_within_a_site_are_no_overlap(make_site: MakeSite) -> None:
    site = make_site("site", "brats2023-gli", {"BraTS-GLI-00005-000": 0, "BraTS-GLI-00005-001": 1})
    assert find_overlap({"a": site}) == []


def test_scan_under_two_patients_names_in_one_site_is_kept_once(make_site: MakeSite) -> None:
    site = make_site("site", "brats2021", {"BraTS2021_00000": 0, "BraTS2021_00001": 0})
    assert find_overlap({"a": site}) == [Overlap("a", "BraTS2021_00001", "a", "BraTS2021_00000", VOXELS)]


def test_third_site_is_referred_to_the_first(make_site: MakeSite) -> None:
    sites = {
        "a": make_site("1", "brats2020", {"BraTS20_Training_001": 0}),
        "b": make_site("2", "brats2021", {"BraTS2021_00000": 0}),
        "c": make_site("3", "brats2023-gli", {"BraTS-GLI-00005-000": 0}),
    }
    assert [str(overlap) for overlap in find_overlap(sites)] == [
        "b: BraTS2021_00000 is BraTS20_Training_001, which a brought first (same brain voxels)",
        "c: BraTS-GLI-00005-000 is BraTS20_Training_001, which a brought first (same brain voxels)",
    ]


def case_of(patient: str, scan: str, number: int = 0) -> CachedCase:
    """A case without arrays: what overlap is found by, and no more."""
    nothing = np.zeros((1, 1, 1, 1))
    geometry = Geometry((1, 1, 1), (1.0, 1.0, 1.0), (0, 0, 0), (1, 1, 1), (1, 1, 1), (0, 0, 0))
    prepared = CaseArrays(nothing.astype(np.float16), nothing, nothing, geometry, scan)
    return CachedCase(Case(f"{patient}-{number:03d}", patient, (), Path(), RELEASES["brats2021"]), prepared)


def test_chain_that_only_a_later_site_closes_keeps_the_patient_at_the_first() -> None:
    """Site a has P and c has R; b's Q has a scan of each: the three names are one patient's."""
    sites = {
        "a": [case_of("P", "scan 1")],
        "c": [case_of("R", "scan 2")],
        "b": [case_of("Q", "scan 1"), case_of("Q", "scan 2", 1)],
    }
    assert find_overlap(sites) == [
        Overlap("c", "R-000", "a", "P-000", ANOTHER_SCAN),
        Overlap("b", "Q-000", "a", "P-000", VOXELS),
        Overlap("b", "Q-001", "a", "P-000", ANOTHER_SCAN),
    ]


def test_chain_of_all_three_identities_is_told_step_by_step_from_the_case() -> None:
    sites = {
        "a": [case_of("P", "scan 1")],
        "b": [case_of("Q", "scan 1"), case_of("Q", "scan 2", 1)],
        "c": [case_of("R", "scan 3")],
        "d": [case_of("R", "scan 4"), case_of("S", "scan 5")],
    }
    found = find_overlap(sites, {"Q": "Q", "R": "Q", "T": "T"})
    assert [(o.site, o.case, o.first_case, o.found_by) for o in found] == [
        ("b", "Q-000", "P-000", VOXELS),
        ("b", "Q-001", "P-000", ANOTHER_SCAN),
        ("c", "R-000", "P-000", f"{NAME_MAPPING}, {VOXELS}"),
        ("d", "R-000", "P-000", f"{NAME_MAPPING}, {VOXELS}"),
    ]


def test_two_names_that_another_site_knows_for_one_patients_are_kept_once_in_their_own_site() -> None:
    """Else one name could be trained on and the other tested."""
    early = {"a": [case_of("P", "scan 1"), case_of("Q", "scan 2")]}
    late = {"b": [case_of("R", "scan 1"), case_of("R", "scan 2", 1)]}
    assert find_overlap(early) == []
    assert find_overlap(early | late)[0] == Overlap("a", "Q-000", "a", "P-000", ANOTHER_SCAN)


def test_name_mapping_alone_finds_a_patient_and_alone_is_no_overlap(tmp_path: Path) -> None:
    file = tmp_path / "mapping.csv"
    file.write_text("BraTS2023,BraTS2021\nBraTS-GLI-00005-000,BraTS2021_00001\n")
    mapping = read_name_mapping(file)
    old, new = [case_of("BraTS2021_00001", "scan 1")], [case_of("BraTS-GLI-00005", "scan 2")]

    assert find_overlap({"a": old}, mapping) == []
    assert find_overlap({"a": old, "b": new}) == []
    assert find_overlap({"a": old, "b": new}, mapping) == [
        Overlap("b", "BraTS-GLI-00005-000", "a", "BraTS2021_00001-000", NAME_MAPPING)
    ]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 14)), max_size=6), min_size=1, max_size=5),
    st.dictionaries(st.integers(0, 9), st.integers(0, 3), max_size=4),
)
def test_what_stays_is_one_name_of_each_patient_at_the_first_site(
    drawn: list[list[tuple[int, int]]], persons: dict[int, int]
) -> None:
    """Compared with the closure of who shares what with whom, by powers of a matrix."""
    sites = {
        f"site-{place}": [case_of(f"P{patient}", f"scan {scan}", n) for n, (patient, scan) in enumerate(cases)]
        for place, cases in enumerate(drawn)
    }
    everyone = [(site, cached) for site, cases in sites.items() for cached in cases]
    mapping = {f"P{patient}": f"person {person}" for patient, person in persons.items()}

    def same(one: CachedCase, other: CachedCase) -> bool:
        a, b = one.case.patient, other.case.patient
        named = a in mapping and mapping[a] == mapping.get(b)
        return a == b or one.prepared.voxel_hash == other.prepared.voxel_hash or named

    linked = np.array([[same(a, b) for _, b in everyone] for _, a in everyone], dtype=int)
    linked = linked.reshape(len(everyone), len(everyone))
    for _ in range(5):  # at most 30 cases: paths of 32 steps
        linked = (linked @ linked > 0).astype(int)
    expected = []
    for number, (site, cached) in enumerate(everyone):
        first_site, first = everyone[int(np.argmax(linked[number]))]
        if (first_site, first.case.patient) != (site, cached.case.patient):
            expected.append((site, cached.case.name, first_site, first.case.patient))

    found = find_overlap(sites, mapping)

    assert [(o.site, o.case, o.first_site, o.first_case[:-4]) for o in found] == expected
    gone = {(o.site, o.case) for o in found}
    left = {site: [c for c in cases if (site, c.case.name) not in gone] for site, cases in sites.items()}
    assert find_overlap(left, mapping) == []
    voxels = {(site, c.case.name): c.prepared.voxel_hash for site, c in everyone}
    for overlap in found:
        same_scan = voxels[overlap.site, overlap.case] == voxels[overlap.first_site, overlap.first_case]
        assert (overlap.found_by == VOXELS) == same_scan


def test_no_two_phantom_patients_are_one_at_any_hospital_or_seed(tmp_path: Path) -> None:
    config = make_settings("smoke")
    prepared = {}
    for seed in (0, 1):
        for site in phantom_federation(6, config.replace(seed=seed), tmp_path):
            release = RELEASES[site.release]
            cases = find_cases(Path(site.path), release)
            found = cached_cases(cases, config.data.grid, config.data.spacing_mm, tmp_path / "cache")
            prepared[seed, site.name] = found
    for seed in (0, 1):
        assert find_overlap({name: cases for (of, name), cases in prepared.items() if of == seed}) == []
    hashes = {cached.prepared.voxel_hash for cases in prepared.values() for cached in cases}
    assert len(hashes) == sum(map(len, prepared.values())) > 2 * 6 * 2, (
        "other seeds have other patients, who share their names"
    )


def test_record_of_overlap_counts_by_site_and_says_whether_it_leaks() -> None:
    overlaps = [Overlap("b", "x", "a", "y", VOXELS), Overlap("b", "z", "a", "y", ANOTHER_SCAN)]
    cases = [
        {"site": "b", "case": "x", "first_site": "a", "first_case": "y", "found_by": "same brain voxels"},
        {
            "site": "b",
            "case": "z",
            "first_site": "a",
            "first_case": "y",
            "found_by": "same brain voxels of another scan",
        },
    ]
    assert overlap_record(overlaps, kept=False) == {"leaks": False, "left_out": {"b": 2}, "kept": {}, "cases": cases}
    assert overlap_record(overlaps, kept=True) == {"leaks": True, "left_out": {}, "kept": {"b": 2}, "cases": cases}
    assert overlap_record([], kept=True) == {"leaks": False, "left_out": {}, "kept": {}, "cases": []}

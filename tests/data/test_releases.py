import pickle

import numpy as np
import pytest

from fedserdiff.data.releases import RELEASES, Convention, get_release
from fedserdiff.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("release", "case", "patient"),
    [
        ("brats2017", "Brats17_TCIA_105_1", "Brats17_TCIA_105"),
        ("brats2017", "Brats18_TCIA_105_1", None),
        ("brats2018", "Brats18_2013_11_1", "Brats18_2013_11"),
        ("brats2018", "Brats18_CBICA_AAB", None),
        ("brats2019", "BraTS19_TMC_06643_1", "BraTS19_TMC_06643"),
        ("brats2019", "BraTS19_CBICA_AAB_1", "BraTS19_CBICA_AAB"),
        ("brats2020", "BraTS20_Training_001", "BraTS20_Training_001"),
        ("brats2020", "BraTS20_Training_1", None),
        ("brats2020", "BraTS20_Validation_001", None),
        ("brats2021", "BraTS2021_01666", "BraTS2021_01666"),
        ("brats2021", "BraTS2021_0166", None),
        ("brats2021", "BraTS2021_01666_t1.nii.gz", None),
        ("brats2023-gli", "BraTS-GLI-00012-001", "BraTS-GLI-00012"),
        ("brats2023-gli", "BraTS-GLI-00012", None),
        ("brats2023-gli", "BraTS-MEN-00012-001", None),
        ("brats2024-gli", "BraTS-GLI-02064-100", "BraTS-GLI-02064"),
        ("brats2024-gli", "BraTS2021_01666", None),
        ("brats2023-ssa", "BraTS-SSA-00008-000", "BraTS-SSA-00008"),
        ("brats2023-men", "BraTS-MEN-00004-001", "BraTS-MEN-00004"),
        ("brats2023-men", "BraTS-MEN-RT-0004-1", None),
        ("brats2024-men-rt", "BraTS-MEN-RT-0004-1", "BraTS-MEN-RT-0004"),
        ("brats2023-met", "BraTS-MET-00761-003", "BraTS-MET-00761"),
        ("brats2024-met", "BraTS-MET-00761-003", "BraTS-MET-00761"),
        ("brats2023-ped", "BraTS-PED-00255-000", "BraTS-PED-00255"),
        ("brats2024-ped", "BraTS-PED-00255-000", "BraTS-PED-00255"),
        ("fets2021", "FeTS21_Training_001", "FeTS21_Training_001"),
        ("fets2022", "FeTS2022_01341", "FeTS2022_01341"),
    ],
)
def test_patient_is_read_from_case_names_of_the_release_only(release: str, case: str, patient: str | None) -> None:
    assert get_release(release).patient_of(case) == patient


@pytest.mark.parametrize(
    ("release", "stems"),
    [
        ("brats2021", ["X_t1", "X_t1ce", "X_t2", "X_flair", "X_seg"]),
        ("brats2024-gli", ["X-t1n", "X-t1c", "X-t2w", "X-t2f", "X-seg"]),
        ("brats2018", ["X_t1", "X_t1ce", "X_t2", "X_flair", "X_seg"]),
        ("brats2024-ped", ["X-t1n", "X-t1c", "X-t2w", "X-t2f", "X-seg"]),
    ],
)
def test_file_names_follow_the_release(release: str, stems: list[str]) -> None:
    convention = get_release(release)
    assert [convention.file_stem("X", channel) for channel in ("t1", "t1ce", "t2", "flair", "seg")] == stems


# Rows: label 0 (background), 1 (necrosis), 2 (oedema), 3, 4; columns: TC, WT, ET, as the challenges define them.
_OLD = {0: (0, 0, 0), 1: (1, 1, 0), 2: (0, 1, 0), 4: (1, 1, 1)}
_2023 = {0: (0, 0, 0), 1: (1, 1, 0), 2: (0, 1, 0), 3: (1, 1, 1)}
_2024 = {**_2023, 4: (0, 0, 0)}
_CHILDREN_2024 = {0: (0, 0, 0), 1: (1, 1, 1), 2: (1, 1, 0), 3: (1, 1, 0), 4: (0, 1, 0)}  # ET, NET, cyst, oedema
_TABLES = {
    **dict.fromkeys(("brats2017", "brats2018", "brats2019", "brats2020", "brats2021", "fets2021", "fets2022"), _OLD),
    **{f"brats2023-{task}": _2023 for task in ("gli", "ssa", "men", "met", "ped")},
    "brats2024-gli": _2024,
    "brats2024-met": _2023,
    "brats2024-ped": _CHILDREN_2024,
    "brats2024-men-rt": {0: (0,), 1: (1,)},  # the gross tumour volume alone
}


@pytest.mark.parametrize(("release", "table"), _TABLES.items())
def test_each_label_belongs_to_its_regions(release: str, table: dict[int, tuple[int, ...]]) -> None:
    assert set(_TABLES) == set(RELEASES)
    labels = np.array(list(table), np.int64).reshape(-1, 1, 1)

    masks = get_release(release).region_masks(labels)

    assert masks.dtype == bool
    assert masks[:, :, 0, 0].T.astype(int).tolist() == [list(regions) for regions in table.values()]


@pytest.mark.parametrize(
    ("release", "label", "suggested"),
    [
        ("brats2023-gli", 4, "brats2024-gli"),
        ("brats2023-ped", 4, "brats2024-ped"),
    ],
)
def test_label_of_another_release_is_refused_and_that_release_suggested(
    release: str, label: int, suggested: str
) -> None:
    with pytest.raises(DataError, match=f"label {label} is not one of {release}'s .*release {suggested} has it"):
        get_release(release).region_masks(np.full((2, 2, 2), label))


@pytest.mark.parametrize("label", [7, 3, -1])
def test_label_of_no_release_with_such_names_is_refused_without_a_suggestion(label: int) -> None:
    with pytest.raises(DataError, match=f"label {label} is not one of brats2020's") as caught:
        get_release("brats2020").region_masks(np.full((2, 2, 2), label))
    assert "has it" not in str(caught.value)


def test_unknown_release_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown release 'brats2012'") as caught:
        get_release("brats2012")
    assert all(name in str(caught.value) for name in RELEASES)


@pytest.mark.parametrize("release", [name for name in RELEASES if len(RELEASES[name].regions) == 3])
def test_a_label_map_holds_the_masks_that_it_was_painted_from(release: str) -> None:
    convention = get_release(release)
    nested = np.array([[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1]], bool).T.reshape(3, 4, 1, 1)  # TC, WT, ET
    labels = convention.label_map(nested)
    members = {regions: label for label, regions in reversed(_TABLES[release].items()) if any(regions)}
    assert labels.ravel().tolist() == [0, members[0, 1, 0], members[1, 1, 0], members[1, 1, 1]]
    np.testing.assert_array_equal(convention.region_masks(labels), nested)


@pytest.mark.parametrize("release", [name for name in RELEASES if len(RELEASES[name].regions) == 3])
def test_what_no_label_says_is_the_label_most_probable_of_all(release: str) -> None:
    convention = get_release(release)
    p = np.random.default_rng(0).random((3, 4000))
    labels = convention.label_map(p.reshape(3, 20, 20, 10)).ravel()
    members = {label: [label in values for values in convention.regions.values()] for label in convention.labels}
    together = {
        label: np.prod([p[r] if inside else 1 - p[r] for r, inside in enumerate(row)], 0)
        for label, row in members.items()
        if any(row) or label == 0
    }
    said = {tuple(row): label for label, row in reversed(members.items())}
    said[False, False, False] = 0
    best = [max(together, key=lambda label, at=at: together[label][at]) for at in range(4000)]
    expected = [said.get(tuple((p[:, at] >= 0.5).tolist()), best[at]) for at in range(4000)]
    assert labels.tolist() == expected
    assert sum(tuple((p[:, at] >= 0.5).tolist()) not in said for at in range(4000)) > 1000


def test_regions_side_by_side_keep_their_labels_and_the_more_probable_one_wins() -> None:
    convention = Convention("any", ("t2",), {"pz": (1,), "tz": (2,), "all": (1, 2)}, (0, 1, 2))
    p = np.array([[0.5, 0, 1], [0, 1, 1], [0.9, 0.6, 1], [0.3, 0.4, 1], [0.45, 0.4, 0.6], [0, 0, 0.4]])
    labels = convention.label_map(p.T.reshape(3, 6, 1, 1)).ravel()
    assert labels.tolist() == [1, 2, 1, 2, 1, 0]


def test_probabilities_of_a_half_count_as_in_and_certain_ones_can_be_outvoted() -> None:
    convention = get_release("brats2021")
    p = np.array([[0.5, 0.5, 0.5], [0.5, 0.5, 0.49], [0, 0, 1], [0.1, 1, 1], [1, 1, 1]])  # by voxel: TC, WT, ET
    labels = convention.label_map(p.T.reshape(3, 5, 1, 1)).ravel()
    assert labels.tolist() == [4, 1, 0, 4, 4]


def test_a_federation_may_take_a_part_of_a_release_in_an_order_of_its_own() -> None:
    agreed = get_release("brats2021").agreed(("flair", "t1"), ("et", "wt"))
    assert agreed.modalities == ("flair", "t1")
    assert agreed.region_masks(np.array([2, 4]).reshape(2, 1, 1))[:, :, 0, 0].astype(int).tolist() == [[0, 1], [1, 1]]
    with pytest.raises(DataError, match="brats2021 has no modality dwi; it has t1, t1ce, t2, flair"):
        get_release("brats2021").agreed(("dwi",), ("et",))


@pytest.mark.parametrize("release", RELEASES)
def test_a_convention_goes_with_its_cases_to_another_process(release: str) -> None:
    assert pickle.loads(pickle.dumps(get_release(release))) == get_release(release)

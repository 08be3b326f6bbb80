"""``federation`` makes a file that runs as it is from a table and a folder, and names cases that are in no hospital."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedserdiff.commands import federation as command
from fedserdiff.data.site_cases import site_cases
from fedserdiff.experiment_file import layers_of_file
from fedserdiff.experiments.opened_federation import open_federation
from fedserdiff.federation import read_federation
from fedserdiff.settings.sources import make_settings

Call = Callable[..., str]

OLD = ("t1", "t1ce", "t2", "flair", "seg")
NEW = ("t1n", "t1c", "t2w", "t2f", "seg")


def _cases(folder: Path, names: Sequence[str], suffixes: Sequence[str] = OLD, separator: str = "_") -> None:
    """Make cases of empty files: the command looks at names alone."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for suffix in suffixes:
            (folder / name / f"{name}{separator}{suffix}.nii.gz").touch()


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the command on ``table.csv`` with this text and the folder ``data``; return what it says."""
    monkeypatch.chdir(tmp_path)

    def run(table: str, *options: str, fails: bool = False) -> str:
        Path("table.csv").write_text(table)
        result = CliRunner().invoke(command.app, ["table.csv", "data", *options], env={"COLUMNS": "200"})
        assert result.exit_code == fails, result.output
        assert fails == isinstance(result.exception, SystemExit), result.exception
        return result.output

    return run


def _fets(count: int) -> list[str]:
    return [f"FeTS2022_{number:05d}" for number in range(count)]


def _row(output: str, hospital: str) -> list[str]:
    (line,) = (line for line in output.splitlines() if re.search(rf"│ {re.escape(hospital)} ", line))
    return line.strip("│ ").replace("│", " ").split()


PARTITION = "Partition_ID,Subject_ID\n" + "".join(
    f"{1 if number < 3 else 2 if number < 8 else 3},FeTS2022_{number:05d}\n" for number in range(10)
)


def test_the_partition_of_fets_makes_a_hospital_of_each_institution_of_most_cases_first(call: Call) -> None:
    _cases(Path("data"), [*_fets(8), "FeTS2022_01000"])
    output = call(PARTITION, "--test-share", "0.4")
    assert _row(output, "site-2") == ["site-2", "5", "5", "2"]
    assert _row(output, "site-1") == ["site-1", "3", "3", "1"]
    assert "In the table but not on disk: 2: FeTS2022_00008, FeTS2022_00009" in output
    assert "On disk but without an institution in the table: 1: FeTS2022_01000" in output
    sites = read_federation(Path("federation.toml"))
    assert [(site.name, site.release, site.cases) for site in sites] == [
        ("site-2", "fets2022", tuple(_fets(8)[3:])),
        ("site-1", "fets2022", tuple(_fets(3))),
    ]
    assert {site.path for site in sites} == {str(Path("data").resolve())}
    assert layers_of_file(Path("federation.toml")).settings().data.test_share == 0.4


def test_sources_are_read_from_names_of_years_that_hold_them(call: Call) -> None:
    """BraTS 2020's ``name_mapping.csv`` has no column of institutions."""
    _cases(Path("data"), [f"BraTS20_Training_{number:03d}" for number in range(1, 7)])
    rows = ["Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID"]
    sources = ["CBICA_AAB", "CBICA_AAG", "TCIA08_242", "TCIA08_243", "TCIA08_244"]
    rows += [f"HGG,BraTS19_{source}_1,BraTS20_Training_{number:03d}" for number, source in enumerate(sources, 1)]
    output = call("\n".join([*rows, "LGG,NA,BraTS20_Training_006\n"]))
    assert [(site.name, len(site.cases)) for site in read_federation(Path("federation.toml"))] == [
        ("TCIA08", 3),
        ("CBICA", 2),
    ]
    assert "On disk but without an institution in the table: 1: BraTS20_Training_006" in output


MAPPING = """\
BraTS2021;Site;Date;BraTS2023
BraTS2021_00001;Ludwig Maximilian, LMU;2019-05-01;BraTS-GLI-00001-000
BraTS2021_00002;Ludwig Maximilian, LMU;20180312;BraTS-GLI-00002-000
BraTS2021_00003;UCSF;2017;BraTS-GLI-00003-000
BraTS2021_00003;UCSF;2021-01-01;BraTS-GLI-00003-001
BraTS2021_00004;UCSF;NA;BraTS-GLI-00004-000
NA;Small;2016;BraTS-GLI-00005-000
NA;Follow-up;2016;BraTS-GLI-00006-000
NA;Follow-up;2016;BraTS-GLI-00006-001
"""
OF_GLI = [line.rpartition(";")[2] for line in MAPPING.splitlines()[1:]]


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("size", ["UCSF", "Ludwig-Maximilian-LMU"]),
        ("listed", ["Ludwig-Maximilian-LMU", "UCSF"]),
        ("date", ["UCSF", "Ludwig-Maximilian-LMU"]),
    ],
)
def test_hospitals_arrive_in_the_order_asked_for_and_small_ones_are_left_out_by_name(
    call: Call, order: str, names: list[str]
) -> None:
    _cases(Path("data"), OF_GLI, NEW, "-")
    output = call(MAPPING, "--release", "brats2023-gli", "--order", order, "--out", "files/own.toml")
    assert [site.name for site in read_federation(Path("files/own.toml"))] == names
    assert _row(output, "UCSF") == ["UCSF", "3", "2", "1"]
    assert "Left out (too few cases or patients): 2: " in output
    assert "Small (1)" in output
    assert "Follow-up (2)" in output, "two scans of one patient cannot be split"
    Path("files/own.toml").unlink()
    call(MAPPING, "--release", "brats2023-gli", "--minimum", "3", "--out", "files/own.toml")
    assert [site.name for site in read_federation(Path("files/own.toml"))] == ["UCSF"]


def test_listed_patients_are_held_out_with_all_their_scans(call: Call) -> None:
    _cases(Path("data"), OF_GLI, NEW, "-")
    Path("test.txt").write_text("BraTS-GLI-00003-001\nBraTS-GLI-00001\nBraTS-GLI-09999-000\n")
    output = call(MAPPING, "--release", "brats2023-gli", "--test-list", "test.txt")
    assert "In the list of test patients but in none of these hospitals: 1: BraTS-GLI-09999-000" in output
    assert _row(output, "UCSF")[-1] == "1"
    assert [site.test_cases for site in read_federation(Path("federation.toml"))] == [
        ("BraTS-GLI-00003-000", "BraTS-GLI-00003-001"),
        ("BraTS-GLI-00001-000",),
    ]


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        ("BraTS-GLI-00001-000\n", "test.txt: UCSF: no patient of this hospital is listed"),
        ("BraTS-GLI-00001\nBraTS-GLI-00002\nBraTS-GLI-00003\n", "LMU: every patient of this hospital is listed"),
    ],
)
def test_a_list_that_leaves_a_hospital_with_one_side_alone_is_refused(call: Call, listed: str, says: str) -> None:
    _cases(Path("data"), OF_GLI, NEW, "-")
    Path("test.txt").write_text(listed)
    assert says in call(MAPPING, "--release", "brats2023-gli", "--test-list", "test.txt", fails=True)
    assert not Path("federation.toml").exists()


def test_validation_patients_are_written_by_share_and_counted(call: Call) -> None:
    _cases(Path("data"), _fets(8))
    output = call(PARTITION, "--test-share", "0.4", "--validation-share", "0.2")
    assert "validation patients ┃ test patients" in output
    assert _row(output, "site-2") == ["site-2", "5", "5", "1", "2"]
    assert _row(output, "site-1") == ["site-1", "3", "3", "1", "1"]
    data = layers_of_file(Path("federation.toml")).settings().data
    assert (data.test_share, data.validation_share) == (0.4, 0.2)
    assert {site.validation_cases for site in read_federation(Path("federation.toml"))} == {()}


@pytest.mark.parametrize("test", [("--test-list", "test.txt"), ("--test-share", "0.2")], ids=["list", "share"])
def test_listed_validation_patients_are_held_out_with_all_their_scans(call: Call, test: tuple[str, str]) -> None:
    names = [*OF_GLI, "BraTS-GLI-00007-000", "BraTS-GLI-00008-000"]
    _cases(Path("data"), names, NEW, "-")
    table = MAPPING + "NA;UCSF;NA;BraTS-GLI-00007-000\nNA;Ludwig Maximilian, LMU;NA;BraTS-GLI-00008-000\n"
    Path("test.txt").write_text("BraTS-GLI-00004\nBraTS-GLI-00001\n")
    Path("validation.txt").write_text("BraTS-GLI-00003-001\nBraTS-GLI-00008\nBraTS-GLI-09999-000\n")
    output = call(table, "--release", "brats2023-gli", "--validation-list", "validation.txt", *test)
    assert "In the list of validation patients but in none of these hospitals: 1: BraTS-GLI-09999-000" in output
    assert _row(output, "UCSF") == ["UCSF", "4", "3", "1", "1"]
    sites = read_federation(Path("federation.toml"))
    assert [site.validation_cases for site in sites] == [
        ("BraTS-GLI-00003-000", "BraTS-GLI-00003-001"),
        ("BraTS-GLI-00008-000",),
    ]
    listed = [("BraTS-GLI-00004-000",), ("BraTS-GLI-00001-000",)]
    assert [site.test_cases for site in sites] == (listed if test[0] == "--test-list" else [(), ()])


def test_a_hospital_of_two_patients_has_nobody_to_validate_on(call: Call) -> None:
    _cases(Path("data"), OF_GLI, NEW, "-")
    assert "no hospital has 2 cases of at least three patients" in call(
        MAPPING, "--release", "brats2023-gli", "--validation-share", "0.2", fails=True
    )
    assert not Path("federation.toml").exists()


@pytest.mark.parametrize(
    ("listed", "says"),
    [
        (
            "FeTS2022_00003\n",
            "site-1: no patient of this hospital is listed for its validation_cases: add at least one",
        ),
        ("FeTS2022_00000\nFeTS2022_00004\n", "FeTS2022_00000: on both lists, for testing and for validation"),
        ("FeTS2022_00001\nFeTS2022_00002\nFeTS2022_00004\n", "site-1: every patient of this hospital is listed"),
    ],
)
def test_lists_that_leave_a_side_empty_or_name_a_patient_twice_are_refused(call: Call, listed: str, says: str) -> None:
    _cases(Path("data"), _fets(8))
    Path("test.txt").write_text("FeTS2022_00000\nFeTS2022_00005\n")
    Path("validation.txt").write_text(listed)
    output = call(PARTITION, "--test-list", "test.txt", "--validation-list", "validation.txt", fails=True)
    assert f"test.txt, validation.txt: {says}" in output
    assert not Path("federation.toml").exists()


def test_a_table_of_patients_gives_all_their_scans(call: Call) -> None:
    _cases(Path("data"), OF_GLI, NEW, "-")
    table = "patient,hospital\nBraTS-GLI-00003,a\nBraTS-GLI-00004,a\nBraTS-GLI-00009,a\n"
    output = call(table, "--release", "brats2023-gli")
    assert read_federation(Path("federation.toml"))[0].cases == tuple(OF_GLI[2:5])
    assert "In the table but not on disk: 1: BraTS-GLI-00009" in output


def test_cases_that_lack_a_file_are_left_out_and_told(call: Call) -> None:
    _cases(Path("data"), _fets(8))
    Path("data/FeTS2022_00001/FeTS2022_00001_seg.nii.gz").unlink()
    output = call(PARTITION)
    assert "Left out (a file is missing or unreadable): 1: FeTS2022_00001" in output
    assert read_federation(Path("federation.toml"))[1].cases == ("FeTS2022_00000", "FeTS2022_00002")


def test_a_release_of_ones_own_travels_by_its_path(call: Call, tmp_path: Path) -> None:
    for case in ("N-01-a", "N-01-b", "N-02-a"):
        (tmp_path / "data").mkdir(exist_ok=True)
        for suffix in ("T1", "T2", "mask"):
            (tmp_path / "data" / f"{case}_{suffix}.nii.gz").touch()
    (tmp_path / "north.toml").write_text(
        'name = "north-mri"\ncase_pattern = \'(?P<patient>N-\\d+)-[a-z]\'\nexample = "N-01-a"\n'
        'modalities = { t1 = "T1", t2 = "T2" }\nsegmentation = "mask"\nregions = { lesion = 1 }\n'
    )
    call("case,site\nN-01,north\nN-02-a,north\n", "--release", "north.toml", "--out", "files/federation.toml")
    (site,) = read_federation(tmp_path / "files" / "federation.toml")
    assert site.declared is not None
    config = layers_of_file(tmp_path / "files" / "federation.toml").settings()
    assert (config.data.modalities, config.data.regions) == (("t1", "t2"), ("lesion",))
    assert [case.name for case in site_cases(site, config)] == ["N-01-a", "N-01-b", "N-02-a"]


@pytest.mark.parametrize(
    ("table", "options", "says"),
    [
        ("", [], "table.csv: no rows below the header"),
        ("Subject_ID\nFeTS2022_00001\n", [], "no institution column: call it one of institution, .*Subject_ID"),
        ("Partition_ID,Subject_ID\n1,BraTS2021_00001\n", [], "no column names any of the cases on disk, such"),
        (PARTITION + "9,FeTS2022_00001\n", [], "line 12: FeTS2022_00001 belongs to 9 here, but to 1 in line 3"),
        (PARTITION, ["--minimum", "6"], "no hospital has 6 cases of at least two patients; lower --minimum"),
        (PARTITION, ["--order", "date"], "no date column: call it one of date"),
        (PARTITION.replace("ID\n", "ID,Date\n").replace("1\n", "1,May\n"), ["--order", "date"], "'May' is not a date"),
        (PARTITION, ["--test-share", "1.5"], "data.test_share: 1.5 is not"),
        (PARTITION, ["--test-share", "0.2", "--test-list", "x"], "give only one of them"),
        (
            PARTITION,
            ["--validation-share", "0.2", "--validation-list", "x"],
            "--validation-share, .* give only one of them",
        ),
        (PARTITION, ["--validation-share", "0.8"], "0.2 and 0.8 leave no patients to train on"),
        (
            PARTITION,
            ["--test-share", "0.7", "--validation-share", "0.1"],
            "site-2: data.validation_share: 1 of 5 patients is left",
        ),
        (PARTITION, ["--test-list", "gone.txt"], "gone.txt: cannot be read"),
        (PARTITION, ["--release", "fets2023"], "unknown release 'fets2023': did you mean fets202"),
        (PARTITION, ["--release", "brats2021"], "no case of brats2021 here, but 8 of fets2022"),
        (PARTITION, ["--out", "table.csv"], "--out: table.csv: already exists"),
        (PARTITION.replace("1,Fe", "a b,Fe").replace("2,Fe", "a-b,Fe"), [], "'a b' and 'a-b' would both be site a-b"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(call: Call, table: str, options: list[str], says: str) -> None:
    _cases(Path("data"), _fets(8))
    output = call(table, *options, fails=True)
    assert re.search(f"error: .*{says}", output), output
    assert output.count("\n") == 1
    assert not Path("federation.toml").exists()


def test_a_release_that_names_do_not_tell_is_asked_for(call: Call) -> None:
    _cases(Path("data"), OF_GLI, NEW, "-")
    assert "named as in brats2023-gli and brats2024-gli: name the release with --release" in call(MAPPING, fails=True)


def test_the_file_is_of_hospitals_that_can_be_opened(
    call: Call, tmp_path: Path, write_case: Callable[..., Path], draw_volumes: Callable[..., object]
) -> None:
    for number in range(6):
        write_case(tmp_path / "data" / "HGG", draw_volumes(number), name=f"BraTS2021_{number:05d}")
    call("case,hospital\n" + "".join(f"BraTS2021_{number:05d},{'ab'[number % 2]}\n" for number in range(6)))
    config = make_settings("smoke", {"data.grid": (16, 16, 16), "data.spacing_mm": 1.0})
    opened = open_federation(config, read_federation(Path("federation.toml")), tmp_path / "cache")
    assert opened.case_counts == {name: {"training": 2, "test": 1} for name in "ab"}

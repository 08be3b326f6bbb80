"""Patients who are in a federation twice: what ``audit.py overlap`` says, and what runs do and report."""

import importlib
import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from finished_runs import write_run
from rich.console import Console
from typer.testing import CliRunner

from fedserdiff.data.phantom.generate import write_phantom_hospital
from fedserdiff.errors import ConfigError
from fedserdiff.experiments.opened_federation import Cache
from fedserdiff.report.page import render_page
from fedserdiff.settings.sources import make_settings

ROOT = Path(__file__).parents[1]
Call = Callable[..., str]
BRATS = os.environ.get("FEDSERDIFF_BRATS")
real = pytest.mark.skipif(BRATS is None, reason="FEDSERDIFF_BRATS names no folder of real BraTS cases")

LEAKING = "Leaking: 3 cases (2 of east, 1 of west) are of patients who are in the federation already"
LEFT_OUT = "Left out: 3 cases (2 of east, 1 of west) of patients who are in the federation already"
RECORD = [
    ("east", "BraTS2021_01002", "north", "BraTS2021_01002", "same brain voxels"),
    ("east", "BraTS2021_01003", "north", "BraTS2021_01003", "same brain voxels"),
    ("west", "BraTS-GLI-02001-000", "east", "BraTS2021_01005", "name mapping"),
]


@pytest.fixture
def script() -> Callable[[str], ModuleType]:
    """Import a module of the room that joins both sides."""
    return lambda name: importlib.import_module(f"fedserdiff.experiments.{name}")


@pytest.fixture
def call() -> Call:
    """Call a script's command line in this process; return what it says when it ends with the code that it should."""

    def of(name: str, *arguments: object, fails: bool = False) -> str:
        result = CliRunner().invoke(
            importlib.import_module(f"fedserdiff.commands.{name}").app, [*map(str, arguments)], env={"COLUMNS": "200"}
        )
        assert result.exit_code == fails, result.output
        assert result.output.count("error:") == fails
        assert "Traceback" not in result.output
        return result.output

    return of


@pytest.fixture
def overlapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A federation of 11 cases in an empty working directory: two by voxels and one by name mapping are there twice."""
    monkeypatch.chdir(tmp_path)
    write_phantom_hospital(tmp_path / "phantom", "contrast", 1, 5, 8.0, seed=0).rename("old")
    write_phantom_hospital(tmp_path / "phantom", "contrast", 2, 4, 8.0, seed=0).rename("new")
    names = [f"BraTS2021_{1001 + number:05d}" for number in range(5)]
    assert sorted(folder.name for folder in Path("old").iterdir()) == names
    Path("names.csv").write_text(f"Cohort,BraTS2023,BraTS2021\nx,BraTS-GLI-02001-000,{names[4]}\n")
    sites = {
        "north": f'release = "brats2021"\npath = "old"\ncases = {names[:3]}',
        "east": f'release = "brats2021"\npath = "old"\ncases = {names[1:]}',
        "west": 'release = "brats2023-gli"\npath = "new"',
    }
    text = "".join(f'[[site]]\nname = "{name}"\n{about}\n' for name, about in sites.items())
    file = tmp_path / "ours.toml"
    file.write_text(f'name_mapping = "names.csv"\n{text}')
    return file


def rows(output: str) -> list[tuple[str, ...]]:
    """The rows of the one table in an output."""
    return [tuple(cell.strip() for cell in line.strip("│").split("│")) for line in output.splitlines() if "│" in line]


def test_audit_prints_who_is_there_already_and_by_what_it_was_found(overlapping: Path, call: Call) -> None:
    Path("new", "patient 7").mkdir()
    output = call("audit", "overlap", overlapping, "--profile", "smoke")
    assert "site west: ignored, not named as a case of brats2023-gli: patient 7" in output
    assert [(site, case, at, is_, by) for site, case, is_, at, by in rows(output)] == RECORD
    assert "3 cases of 11 at 3 sites are at an earlier site already" in output
    assert not list(overlapping.parent.glob("runs*"))


def test_audit_of_a_clean_federation_says_so(overlapping: Path, call: Call) -> None:
    overlapping.write_text(overlapping.read_text().replace("names.csv", "none.csv"))
    Path("none.csv").write_text("BraTS2021_09999,BraTS20_Training_999\n")
    text = overlapping.read_text()
    overlapping.write_text(text.replace("['BraTS2021_01002', 'BraTS2021_01003', ", "["))
    output = call("audit", "overlap", overlapping, "--profile", "smoke")
    assert "no patient is at two sites" in output
    assert not rows(output)


def test_audit_tells_a_scan_under_two_names_in_one_site_apart(overlapping: Path, call: Call) -> None:
    """Both names are one patient's, so that one of them is left out; no other site is concerned."""
    again = Path("old") / "BraTS2021_01999"
    again.mkdir()
    for file in (Path("old") / "BraTS2021_01001").iterdir():
        (again / file.name.replace("_01001_", "_01999_")).write_bytes(file.read_bytes())
    overlapping.write_text('[[site]]\nname = "north"\nrelease = "brats2021"\npath = "old"\n')
    output = call("audit", "overlap", overlapping, "--profile", "smoke")
    assert rows(output) == [("north", "BraTS2021_01999", "BraTS2021_01001", "north", "same brain voxels")]
    assert "no patient is at two sites" in output
    assert "1 case is at the same site under another name already" in output


def test_audit_needs_no_second_patient_of_a_site(overlapping: Path, call: Call) -> None:
    one = "cases = ['BraTS2021_01001']"
    overlapping.write_text(f'[[site]]\nname = "north"\nrelease = "brats2021"\npath = "old"\n{one}\n')
    assert "no patient is at two sites" in call("audit", "overlap", overlapping, "--profile", "smoke")


def test_audit_lists_every_bad_case_in_a_table_and_a_file(overlapping: Path, call: Call) -> None:
    for folder in sorted(Path("new").iterdir()):
        (folder / f"{folder.name}-seg.nii.gz").unlink()
    Path("old", "BraTS2021_01005", "BraTS2021_01005_t2.nii.gz").unlink()
    output = call("audit", "overlap", overlapping, "--profile", "smoke", fails=True)
    told = rows(output)
    assert [(site, Path(file).name) for site, _, file, _ in told] == [
        ("east", "BraTS2021_01005_t2.nii.gz"),
        *(("west", f"{folder.name}-seg.nii.gz") for folder in sorted(Path("new").iterdir())),
    ]
    (listed,) = Path("runs").iterdir()
    assert f"Listed in {listed}" in output
    assert len(listed.read_text().splitlines()) == 1 + len(told)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('"names.csv"', '"gone.csv"', "gone.csv: cannot be read (No such file or directory)"),
        ('"names.csv"', '"ours.toml"', "ours.toml: no case name in any of its .* lines|not a CSV table"),
        ('"names.csv"', "7", "ours.toml: name_mapping: 7 is not a filled str"),
        ("BraTS2021_01005'", "BraTS2021_02005'", "site east: .*no case BraTS2021_02005"),
        ('"new"', '"old"', "site west: .*but 5 of brats2021"),
    ],
    ids=["no mapping", "no table", "no path", "no case", "wrong release"],
)
def test_a_mistake_is_named_by_audit_and_run_alike(
    overlapping: Path, call: Call, before: str, after: str, says: str
) -> None:
    overlapping.write_text(overlapping.read_text().replace(before, after))
    wanted = re.compile(says.replace("(", r"\(").replace(")", r"\)"))
    for command in (
        ("audit", "overlap", overlapping, "--profile", "smoke"),
        ("simulate", overlapping, "--profile", "smoke"),
    ):
        assert wanted.search(call(*command, fails=True).replace("\n", ""))


@pytest.fixture
def simulated(call: Call, script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Call ``simulate.py`` with the run itself left out: what it says, what stands in a picture, and the record."""

    def of(federation: Path, *arguments: str) -> tuple[str, str, dict[str, Any]]:
        module, seen = script("simulated_run"), {}

        def run_simulation(opened: Any, run: Any, *_: object) -> dict[str, Any]:
            names = [site.name for site in opened.config.sites]
            matrix = [[0.0] * len(names)] * 2
            by_metric = {metric: dict.fromkeys(("mean", "tc", "wt", "et"), matrix) for metric in ("dice", "hd95")}
            none = {metric: {"mean": None} for metric in by_metric}
            seen["overlap"], seen["cases"] = opened.overlap_of(opened.config), opened.config.sites
            return {
                "method": "fine-tune", "seed": 0, "sites": names, "stages": ["untrained", "all"],
                "deployed": [1] * len(names), "cases": opened.case_counts, "R": by_metric, "R_coarse": by_metric,
                **dict.fromkeys(("bwt", "fwt", "forgetting", "forgetting_rate"), none),
                "fairness": {"dice": {"mean": {"worst_site": names[0], "worst": 0.0, "spread": 0.0}}},
                "bytes_out": {name: {} for name in names}, "seconds": {}, "absences": [], "interruptions": [],
                "overlap": seen["overlap"], "scored": "test",
                "evaluation": {"every": 1, "sites": names, "rows": [0, 1]},
            }  # fmt: skip

        monkeypatch.setattr(module, "run_simulation", run_simulation)
        monkeypatch.setattr(module, "examples", lambda *_: [])
        monkeypatch.setattr(module, "plot_examples", lambda examples, title, file: seen.update(title=title))
        output = call("simulate", "--profile", "smoke", federation, *arguments)
        return output, seen.get("title", ""), seen

    return of


def test_default_run_leaves_later_copies_out_and_says_so(overlapping: Path, simulated: Callable[..., Any]) -> None:
    Path("new", "patient 7").mkdir()
    output, title, seen = simulated(overlapping)
    assert "site west: ignored, not named as a case of brats2023-gli: patient 7" in output
    assert {site.name: len(site.cases) for site in seen["cases"]} == {"north": 3, "east": 2, "west": 3}
    assert "left out east: BraTS2021_01002 is BraTS2021_01002, which north brought first" in output
    assert LEFT_OUT in output
    assert "eaking" not in output + title
    overlap = seen["overlap"]
    assert (overlap["leaks"], overlap["left_out"], overlap["kept"]) == (False, {"east": 2, "west": 1}, {})
    assert [tuple(case.values()) for case in overlap["cases"]] == RECORD
    assert not title, "scans of one's own are shown on request alone"
    assert not list(overlapping.parent.glob("runs/*/volumes.html"))


def test_run_that_keeps_them_is_stamped_in_tables_record_and_picture(
    overlapping: Path, simulated: Callable[..., Any]
) -> None:
    output, title, seen = simulated(overlapping, "--allow-overlap", "--show-cases")
    assert {site.name: len(site.cases) for site in seen["cases"]} == {"north": 3, "east": 4, "west": 4}
    assert "kept, which leaks: west: BraTS-GLI-02001-000 is of the same patient as BraTS2021_01005" in output
    assert output.count(LEAKING) == 2
    assert LEAKING in title
    (page,) = overlapping.parent.glob("runs/*/volumes.html")
    assert LEAKING in page.read_text()
    assert "eft out" not in output
    overlap = seen["overlap"]
    assert (overlap["leaks"], overlap["left_out"], overlap["kept"]) == (True, {}, {"east": 2, "west": 1})
    assert [tuple(case.values()) for case in overlap["cases"]] == RECORD


def test_run_that_may_keep_them_where_there_are_none_is_clean(overlapping: Path, simulated: Callable[..., Any]) -> None:
    overlapping.write_text('[[site]]\nname = "west"\nrelease = "brats2023-gli"\npath = "new"\n')
    output, title, seen = simulated(overlapping, "--allow-overlap")
    assert "eaking" not in output + title
    assert seen["overlap"] == {"leaks": False, "left_out": {}, "kept": {}, "cases": []}


@pytest.mark.parametrize("allowed", [False, True], ids=["left out", "kept"])
def test_comparison_and_its_runs_say_what_was_left_out_or_leaks(
    overlapping: Path, script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    """Runs are reused by their config, and none of them knows of what its config no longer names, or of a mapping."""
    module, folder, titles = script("comparison"), overlapping.parent, []
    overlapping.write_text(
        '[[site]]\nname = "north"\nrelease = "brats2021"\npath = "old"\n'
        "cases = ['BraTS2021_01001', 'BraTS2021_01002', 'BraTS2021_01003']\n"
        '[[site]]\nname = "west"\nrelease = "brats2021"\npath = "old"\n'
        "cases = ['BraTS2021_01002', 'BraTS2021_01003', 'BraTS2021_01004', 'BraTS2021_01005']\n"
    )
    run = write_run(folder, "fine-tune", 0, [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]).path
    about = json.loads((run / "config.json").read_text())
    about["data"]["allow_overlap"] = allowed
    (run / "config.json").write_text(json.dumps(about))

    class Pool:
        def complete(self, wanted: dict[Any, Any]) -> dict[Any, Path]:
            assert [config.data.allow_overlap for config in wanted] == [allowed]
            return dict.fromkeys(wanted, run)

    monkeypatch.setattr(module, "examples", lambda *_: [])
    monkeypatch.setattr(module, "plot_methods", lambda shown, title, file: titles.append(title))
    console = Console(record=True, width=200)
    config = make_settings("smoke", {"data.allow_overlap": allowed})
    cache = Cache(folder / "cache")
    of = partial(module.Setting, config, [0], overlapping, 2, console, cache)
    settings = [of(show_cases=shown) for shown in (True, False)]

    made, _ = module.compare_methods(Pool(), settings[0], ["fine-tune"], folder)
    (comparison,) = module.write_page(folder, settings[0], [made])

    sentences = [
        "west: BraTS2021_01002 is BraTS2021_01002, which north brought first (same brain voxels)",
        "west: BraTS2021_01003 is BraTS2021_01003, which north brought first (same brain voxels)",
    ]
    stored = json.loads((run / "results.json").read_text())["overlap"]
    assert stored["leaks"] == allowed
    assert stored["kept" if allowed else "left_out"] == {"west": 2}
    data = comparison["data"]
    assert data["kept" if allowed else "left_out"] == sentences
    assert data["left_out" if allowed else "kept"] == []
    assert (data["leak"] is not None) == allowed
    page = render_page(comparison, [], None)
    assert all(sentence in page for sentence in sentences)
    in_csv = (folder / "comparison.csv").read_text().splitlines()
    assert in_csv[1].split(",")[in_csv[0].split(",").index("leaks")] == str(allowed)
    for text in (page, titles[0], (folder / "volumes.html").read_text()):
        assert ("Leaking: 2 cases (2 of west)" in text) == allowed

    before = (run / "results.json").stat().st_mtime_ns
    module.compare_methods(Pool(), settings[1], ["fine-tune"], folder)
    assert not (folder / "volumes.html").exists(), "scans of one's own are shown on request alone"
    assert (run / "results.json").stat().st_mtime_ns == before


def test_a_federation_file_cannot_pass_for_phantoms(overlapping: Path, call: Call) -> None:
    """Results would call its patients phantoms, and pictures would show them."""
    Path("own").mkdir()
    overlapping.rename("own/phantom")
    said = call("simulate", "own/phantom", "--profile", "smoke", fails=True)
    assert "phantom is the name of phantom data; give the file another name" in said


def test_comparisons_with_and_without_overlap_do_not_share_a_folder(
    overlapping: Path, script: Callable[[str], ModuleType]
) -> None:
    module = script("comparison")
    clean, leaking = (
        module.Setting(
            make_settings("smoke", {"data.allow_overlap": allowed}),
            [0],
            overlapping,
            3,
            Console(),
            Cache(),
        )
        for allowed in (False, True)
    )
    assert clean.folder != leaking.folder
    folder = overlapping.parent / "compared"
    module.claim(folder, clean)
    module.claim(folder, clean)
    with pytest.raises(ConfigError, match="contains a comparison on ours, smoke; give another --out"):
        module.claim(folder, leaking)


@real
def test_audit_finds_the_two_real_duplicates_and_no_other(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    releases = {"BraTS2020": "brats2020", "BraTS2021": "brats2021", "BraTS2023-GLI": "brats2023-gli"}
    sites = [
        f'[[site]]\nname = "{f}"\nrelease = "{r}"\npath = "{Path(BRATS or "") / f}"\n' for f, r in releases.items()
    ]
    Path("real.toml").write_text("".join(sites))
    output = call("audit", "overlap", "real.toml", "--profile", "smoke")
    assert rows(output) == [
        ("BraTS2023-GLI", f"BraTS-GLI-{n:05d}-000", f"BraTS2021_{n:05d}", "BraTS2021", "same brain voxels")
        for n in (0, 2)
    ]
    assert "2 cases of 11 at 3 sites are at an earlier site already" in output


@real
def test_default_run_on_real_cases_drops_the_duplicates_from_the_later_site(
    simulated: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 2023's three cases would remain, too few to split, so a case of another release is added."""
    monkeypatch.chdir(tmp_path)
    folder = Path(BRATS or "")
    first = 'cases = ["BraTS-GLI-00000-000", "BraTS-GLI-00002-000"]'
    later = 'cases = ["BraTS2021_00000", "BraTS2021_00002", "BraTS2021_00003", "BraTS2021_00005"]'
    Path("real.toml").write_text(
        f'[[site]]\nname = "west"\nrelease = "brats2023-gli"\npath = "{folder / "BraTS2023-GLI"}"\n{first}\n'
        f'[[site]]\nname = "east"\nrelease = "brats2021"\npath = "{folder / "BraTS2021"}"\n{later}\n'
    )
    output, _, seen = simulated(Path("real.toml"))
    assert [site.cases for site in seen["cases"]] == [
        ("BraTS-GLI-00000-000", "BraTS-GLI-00002-000"), ("BraTS2021_00003", "BraTS2021_00005")
    ]  # fmt: skip
    for number in (0, 2):
        copy, first_name = f"BraTS2021_{number:05d}", f"BraTS-GLI-{number:05d}-000"
        assert f"left out east: {copy} is {first_name}, which west brought first (same brain voxels)" in output
    assert seen["overlap"]["left_out"] == {"east": 2}

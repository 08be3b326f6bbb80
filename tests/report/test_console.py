"""Printed text stays complete: in a terminal of any width, in a log, and in an encoding that lacks letters."""

import io
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from comparisons import make_comparison, make_study
from rich.console import Console
from rich.table import Table
from test_report import results
from typer.testing import CliRunner

from fedserdiff.commands import compare, score, simulate
from fedserdiff.report.console import Bars, open_console, print_table, progress_bars
from fedserdiff.report.tables import print_comparison, print_results, print_study

ROOT = Path(__file__).parents[2]


def figures(text: str) -> set[str]:
    """Every word with a digit in it, without the frames of tables."""
    return {word for word in re.split(r"[\s│┃]+", text) if re.search(r"\d", word)}


def printed(show: Callable[[Console, Any], None], values: Any, **console: Any) -> str:
    file = io.StringIO()
    show(Console(file=file, **console), values)
    return file.getvalue()


def show_results(console: Console, values: Mapping[str, Any]) -> None:
    print_results(console, values, "phantom")


def run_of_large_figures() -> dict[str, Any]:
    values = results(3).to_dict()
    sent = {"arrays": 335_544_320_123, "error-maps": 124_000_111, "metrics": 900_007, "raw-scans": 88_888_888_888}
    values["bytes_out"] = dict.fromkeys(("north", "west"), sent)
    return values | {"raw_nifti_bytes": {"north": 1_000_000_000_000, "west": 2_000_000_000_000}}


@pytest.mark.parametrize("columns", [20, 60, 80])
@pytest.mark.parametrize(
    ("show", "values"),
    [
        (show_results, run_of_large_figures()),
        (print_comparison, make_comparison()),
        (print_study, make_study("bars")),
    ],
    ids=["results", "comparison", "study"],
)
def test_a_terminal_of_any_width_shows_every_figure_whole(
    show: Callable[[Console, Any], None], values: Any, columns: int
) -> None:
    wide = printed(show, values, width=1000)
    narrow = printed(show, values, width=columns, force_terminal=True, color_system=None)
    assert "…" not in narrow.replace(" … ", " ")
    assert figures(narrow) == figures(wide)
    assert len(figures(wide)) > 10


def test_where_there_is_room_for_less_cells_break_between_words() -> None:
    table = Table("site", "why")
    table.add_row("north-hospital", "its worker ran out of memory 3 times")
    file = io.StringIO()
    print_table(Console(width=40, file=file), table)
    assert max(map(len, file.getvalue().splitlines())) <= 40
    assert "north-hospital" in file.getvalue()
    assert "memory" in file.getvalue()


def test_a_file_has_no_right_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", log := io.StringIO())
    sentence = "word " * 400
    open_console().print(sentence)
    assert log.getvalue() == f"{sentence}\n"


def test_the_table_of_scores_is_whole_in_a_narrow_terminal() -> None:
    measures = ("dice", "hd95", "lesion_dice", "lesion_hd95")
    means = {region: dict.fromkeys(measures, 335.25) for region in ("tc", "wt", "et", "mean")}
    text = printed(print_table, score._table("Means over 12 cases", means, 12), width=20)
    assert text.count(" 33525.0 ") == text.count(" 335.2 ") == 8


def test_a_log_has_a_plain_line_of_progress_now_and_then_and_nothing_that_steers_a_terminal() -> None:
    def log(every_s: float) -> list[str]:
        console = Console(file=io.StringIO(), width=100)
        with Bars(console, log_every_s=every_s) as bars:
            first = bars.add_task("preparing cases of north", total=500)
            for done in range(500):
                bars.update(first, completed=done)
            console.print("north: done")
        text = console.file.getvalue()
        assert "\x1b" not in text
        assert "\r" not in text
        return text.splitlines()

    assert log(3600) == ["north: done"]
    every = log(0)
    assert every[0] == "preparing cases of north: 0 of 500"
    assert every[-2:] == ["preparing cases of north: 499 of 500", "north: done"]


def test_progress_says_how_fast_cases_are_prepared_and_how_long_the_rest_takes() -> None:
    now = [1000.0]

    def at(seconds: float, done: int) -> None:
        now[0] = 1000 + seconds
        show("preparing cases of north", done, 1251)

    for terminal in (False, True):
        console = Console(file=io.StringIO(), width=100, get_time=lambda: now[0], force_terminal=terminal)
        with progress_bars(console) as show:
            at(0, 0)
            at(120, 24)
            at(7230, 626)
            at(7320, 1221)
            at(7321, 1250)
        text = console.file.getvalue()
        if terminal:
            assert "1250/1251\x1b[0m 10 a minute, 6 s left" in text
        else:
            assert text.splitlines() == [
                "preparing cases of north: 24 of 1251, 12 a minute, 1.7 h left",
                "preparing cases of north: 626 of 1251, 5.2 a minute, 2.0 h left",
                "preparing cases of north: 1221 of 1251, 10 a minute, 3 min left",
            ]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_help_and_results_can_be_printed_whatever_the_encoding(encoding: str) -> None:
    """Help contains λ and δ, and a folder's name may not be valid text in any encoding."""
    code = (
        "import os, typer\n"
        "from fedserdiff.commands.common import clear_errors\n"
        "from fedserdiff.errors import ConfigError\n"
        "from fedserdiff.report.console import open_console\n"
        "name = os.fsdecode(b'Patient_M\\xfcller')\n"
        "open_console().print(f'λ of {name}')\n"
        "from fedserdiff.commands import simulate\n"
        "try:\n"
        "    simulate.app(['--help'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "try:\n"
        "    with clear_errors(''):\n"
        "        raise ConfigError(f'{name}: δ')\n"
        "except typer.Exit as end:\n"
        "    assert end.exit_code == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONIOENCODING": encoding, "PATH": "/usr/bin:/bin", "COLUMNS": "120"},
        capture_output=True,
        timeout=900,
    )
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert done.returncode == 0, err
    assert "Traceback" not in err
    letter_lambda, letter_delta = ("λ", "δ") if encoding == "utf-8" else (r"\u03bb", r"\u03b4")
    assert out.startswith(f"{letter_lambda} of Patient_M\\xfcller\n")
    assert f"{letter_lambda}, the weight of distillation" in out
    assert f"error: Patient_M\\xfcller: {letter_delta}" in err


def test_in_a_log_an_error_is_one_line_with_its_whole_path(tmp_path: Path) -> None:
    path = tmp_path / ("long name " * 20) / "federation.toml"
    for module, option in ((simulate, ()), (compare, ("--seeds", "0"))):
        done = CliRunner().invoke(module.app, [str(path), "--profile", "smoke", *option])
        assert done.exit_code == 1
        assert f"{path}: cannot be read" in done.output

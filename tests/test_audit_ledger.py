"""What ``scripts/audit.py ledger`` says about a hospital's ledger, and when it fails."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedserdiff.commands import audit as audit_command
from sites.ledger import Entry, Ledger, Released

ROOT = Path(__file__).parents[1]
Audit = Callable[..., str]


@pytest.fixture(scope="module")
def audit() -> Audit:
    """Call ``audit.py ledger`` in this process; return what it says when it ends as it should."""

    def call(*arguments: object, fails: bool = False) -> str:
        result = CliRunner().invoke(audit_command.app, ["ledger", *map(str, arguments)], env={"COLUMNS": "200"})
        assert result.exit_code == fails, result.output
        assert fails == isinstance(result.exception, SystemExit), result.exception
        assert result.output.count("error:") == fails
        return result.output

    return call


def record(name: str, size: int) -> Released:
    return Released(name, "ArrayRecord", {"a": "int8[2]"}, size, "ab" * 32)


def answer(ledger: Ledger, run: int, message: str, *records: Released, refused: str = "") -> Entry:
    verdict = "refused" if refused else "sent"
    stage, number = (None, None) if message == "query" else (2, 3)
    return ledger.append(
        run=run, message=message, stage=stage, server_round=number, verdict=verdict, reason=refused, records=records
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two runs: one sent 10 + 2000 + 300 bytes and had 4000 refused, the other sent 10 + 2000."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    answer(ledger, 11, "query", record("site", 10))
    answer(ledger, 11, "train", record("arrays", 2000), record("metrics", 300))
    answer(ledger, 11, "train.consolidate", record("error-maps", 4000), refused="[more bytes] than agreed")
    answer(ledger, 12, "query", record("site", 10))
    answer(ledger, 12, "train", record("arrays", 2000))
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def results(tmp_path: Path) -> Callable[..., Path]:
    """Write a ``results.json`` in which the coordinator received so much from the hospital north."""

    def write(received: dict[str, int]) -> Path:
        path = tmp_path / "results.json"
        path.write_text(json.dumps({"method": "ser-diff", "bytes_out": {"north": received, "west": {"site": 1}}}))
        return path

    return write


def row(text: str, first: str) -> list[str]:
    """The cells of the table row that begins with `first`."""
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in text.splitlines()]
    return next(cells for cells in rows if cells and cells[0] == first)


def test_the_account_names_every_decision_the_totals_and_the_last_hash(audit: Audit, file: Path) -> None:
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    times = [f"{entry['time'][:10]} {entry['time'][11:19]}" for entry in entries]
    text = audit(file)
    assert row(text, "1") == ["1", times[0], "query", "–", "–", "sent", "10"]
    assert row(text, "2") == ["2", times[1], "train", "2", "3", "sent", "2,300"]
    assert row(text, "3")[5:] == ["refused ([more bytes] than agreed)", "0"], "brackets are text, not markup"
    assert row(text, "sent") == ["sent", "4", "4,320", "0"]
    assert row(text, "refused") == ["refused", "1", "0", "4,000"]
    assert row(text, "fault") == ["fault", "0", "0", "0"]
    assert row(text, "arrays") == ["arrays", "4,000", "0"]
    assert row(text, "error-maps") == ["error-maps", "0", "4,000"]
    assert f"4,320 bytes left from {entries[0]['time']} to {entries[-1]['time']}" in text
    assert f"5 entries is intact; last hash: {entries[-1]['hash']}" in text
    assert "cut off looks intact too" in text


def test_a_broken_chain_is_one_line_that_names_the_line(audit: Audit, file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"bytes":2000', b'"bytes":1000', 1))
    text = audit(file, fails=True)
    assert f"{file}, line 2: " in text
    assert len(text.splitlines()) == 1, "no account is given of what cannot be trusted"


def test_a_missing_ledger_is_a_clear_error(audit: Audit, tmp_path: Path) -> None:
    assert "none.jsonl: No such file" in audit(tmp_path / "none.jsonl", fails=True)


def test_an_empty_ledger_says_so(audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").touch()
    assert "The ledger is empty" in audit(tmp_path / "ledger.jsonl")


def test_a_noted_head_tells_a_ledger_that_was_cut_off(audit: Audit, file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    noted = json.loads(lines[-1])["hash"]
    audit(file, "--expect-head", noted)
    answer(Ledger(file), 12, "evaluate", record("metrics", 5))
    audit(file, "--expect-head", noted)
    file.write_bytes(b"".join(lines[:-1]))
    audit(file)
    text = audit(file, "--expect-head", noted, fails=True)
    assert noted in text
    assert "cut off" in text


def test_one_run_alone(audit: Audit, file: Path) -> None:
    text = audit(file, "--run", 12)
    assert row(text, "4")[2] == "query"
    assert "train.consolidate" not in text
    assert "2,010 bytes left" in text
    assert "has no entry of run 13; its runs: 11, 12" in audit(file, "--run", 13, fails=True)


def test_a_ledger_that_agrees_with_the_coordinator(audit: Audit, file: Path, results: Callable[..., Path]) -> None:
    both = results({"site": 20, "arrays": 4000, "metrics": 300})
    assert "Ledger and coordinator agree" in audit(file, "--received", both, "--site", "north")
    first = results({"site": 10, "arrays": 2000, "metrics": 300})
    text = audit(file, "--received", first, "--site", "north", "--run", 11)
    assert "Ledger and coordinator agree" in text
    assert "error-maps" not in text.partition("Bytes that left the hospital and reached")[2], (
        "what was refused did not leave"
    )
    audit(file, "--received", first, "--site", "north", fails=True)


@pytest.mark.parametrize(
    ("received", "cells", "sentence"),
    [
        ({"site": 10, "arrays": 1999, "metrics": 300}, ["arrays", "2,000", "1,999", "+1"], "2,000 left and 1,999"),
        ({"site": 10, "arrays": 2000}, ["metrics", "300", "0", "+300"], "metrics: 300 left and 0 were received"),
        (
            {"site": 10, "arrays": 2000, "metrics": 300, "fisher": 7},
            ["fisher", "0", "7", "-7"],
            "fisher: 0 left and 7 were received",
        ),
    ],
)
def test_a_difference_is_shown_and_fails(
    audit: Audit, file: Path, results: Callable[..., Path], received: dict[str, int], cells: list[str], sentence: str
) -> None:
    text = audit(file, "--run", 11, "--received", results(received), "--site", "north", fails=True)
    assert row(text.partition("Bytes that left the hospital and reached")[2], cells[0]) == cells
    assert sentence in text
    assert "agree." not in text


def test_raw_scans_that_no_message_carried_are_not_compared(
    audit: Audit, file: Path, results: Callable[..., Path]
) -> None:
    received = results({"site": 20, "arrays": 4000, "metrics": 300, "raw-scans": 123_456})
    text = audit(file, "--received", received, "--site", "north")
    assert "Not compared: 123,456 bytes of raw-scans" in text


def test_what_cannot_be_compared_is_a_clear_error(
    audit: Audit, file: Path, results: Callable[..., Path], tmp_path: Path
) -> None:
    received = results({"site": 20})
    assert "give both or neither" in audit(file, "--received", received, fails=True)
    assert "give both or neither" in audit(file, "--site", "north", fails=True)
    assert "has no site east; its sites: north, west" in audit(
        file, "--received", received, "--site", "east", fails=True
    )
    for text in ("{}", "[", "[]", '{"bytes_out": {"north": {"arrays": "many"}}}', '{"bytes_out": {"north": 3}}'):
        received.write_text(text)
        assert "not a run's results.json" in audit(file, "--received", received, "--site", "north", fails=True)


def test_a_long_ledger_shows_its_ends_and_says_what_it_left_out(audit: Audit, tmp_path: Path) -> None:
    def shown(text: str) -> list[int]:
        return [int(n) for n in re.findall(r"^│ +(\d+) │ 20", text, re.MULTILINE)]

    file = tmp_path / "ledger.jsonl"
    ledger = Ledger(file)
    for _ in range(60):
        answer(ledger, 11, "train", record("arrays", 1))
    assert shown(audit(file)) == list(range(1, 61))
    answer(ledger, 11, "train", record("arrays", 1))
    text = audit(file)
    assert shown(text) == [*range(1, 21), *range(42, 62)]
    assert "21 of 61 rows are not shown; --all shows them" in text
    assert "61 bytes left" in text
    assert shown(audit(file, "--all")) == list(range(1, 62))


def test_text_of_the_ledger_does_not_steer_the_terminal(audit: Audit, tmp_path: Path) -> None:
    answer(Ledger(tmp_path / "ledger.jsonl"), 11, "\x1b[2Jquery", record("[red]site\x07", 10))
    text = audit(tmp_path / "ledger.jsonl")
    assert "\x1b" not in text
    assert "�[2Jquery" in text
    assert row(text, "[red]site�") == ["[red]site�", "10", "0"]

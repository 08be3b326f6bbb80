"""Bad cases are reported in full, for any number of cases and any file name."""

import csv
import io
import os
from pathlib import Path

import pytest
import typer

from fedserdiff.commands.common import clear_errors
from fedserdiff.errors import BadCasesError, CaseFault
from fedserdiff.report.bad_cases import bad_cases_csv

CASE = "BraTS2021_00003"
FILE = f"{CASE}/{CASE}_t2.nii.gz"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (f"/data/{FILE}", "truncated or damaged (CRC check failed: 1 != 2)"),
        (f"/data: ours/2021/{FILE}", f"modality t2 of case {CASE} is missing"),
        (f"/data/{CASE}", "nothing is left of a 1 × 1 × 1 mm brain at 8 mm spacing: are the voxel sizes right?"),
        (f"/data/{FILE}", f"modality t2 of case {CASE} is also in /more: ours/{FILE}: keep one"),
        ("/flat", "every voxel of every modality is 0: no brain found"),
    ],
)
def test_a_fault_is_taken_apart_where_its_file_ends(file: str, reason: str) -> None:
    fault = CaseFault.of("west", CASE, f"{file}: {reason}")
    assert (fault.file, fault.reason) == (file, reason)
    assert str(fault) == f"site west: {file}: {reason}"


def test_forty_bad_cases_of_two_sites_are_all_in_the_table_of_a_terminal_and_of_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        CaseFault(site, f"BraTS2021_{n:05d}", f"/data/{site}/[old]/{n:05d}_t2.nii.gz", f"truncated at byte {1000 + n}")
        for site in ("north", "west")
        for n in range(20)
    ]
    for width in (None, "60"):
        if width:
            monkeypatch.setenv("COLUMNS", width)
            monkeypatch.setenv("FORCE_COLOR", "1")
        with pytest.raises(typer.Exit), clear_errors("", lambda: "Go on with: simulate"):
            raise BadCasesError(*found, others=["site east: /gone: no such directory"], advice="Listed in x.csv")
        words = capsys.readouterr().err.split()
        for fault in found:
            assert fault.file.removeprefix("/data/") in words
            assert fault.reason.split()[-1] in words
        text = " ".join(words)
        assert "Cases that cannot be used, in /data" in text
        assert "site east: /gone: no such directory 40 cases cannot be used" in text
        assert text.endswith("Listed in x.csv Go on with: simulate")


def test_the_csv_is_read_back_as_it_was_with_any_name(tmp_path: Path) -> None:
    odd = os.fsdecode(b'/M\xfcller, "old"/a;b\n=c')
    found = [CaseFault("west", CASE, odd, 'says "no", twice'), CaseFault("", CASE, "/é", "")]
    rows = list(csv.DictReader(io.StringIO(bad_cases_csv(found).decode("utf-8"), newline=""), strict=True))
    assert list(rows[0]) == ["site", "case", "file", "reason"]
    assert rows[0] == {
        "site": "west",
        "case": CASE,
        "file": odd.replace("\udcfc", r"\xfc"),
        "reason": 'says "no", twice',
    }
    assert rows[1] == {"site": "", "case": CASE, "file": "/é", "reason": ""}

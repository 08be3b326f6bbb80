"""Timing pieces of work in turns: one at a time, together with all processes that it starts."""

import importlib
import os
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedserdiff.errors import FedSerDiffError

ROOT = Path(__file__).parents[1]
CHILD = "import sys, time\nfor _ in range(60):\n    open(sys.argv[1], 'a').write(sys.argv[2])\n    time.sleep(0.02)"


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("benchmarks.turns")


def writes(track: Any, argument: tuple[str, Path]) -> None:
    """Have a process of its own enter a letter in a file again and again."""
    letter, file = argument
    track.start()
    subprocess.run([sys.executable, "-c", CHILD, str(file), letter], check=True)
    track.end()
    (file.parent / letter).touch()


def ends(track: Any, argument: None) -> None:
    """End before the end, as a process does that is killed."""
    track.start()
    os._exit(3)


def never_ready(track: Any, argument: None) -> None:
    time.sleep(600)


def test_one_works_at_a_time_with_all_that_it_started_and_each_finishes(turns: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "letters"
    turns.take_turns(writes, [("a", file), ("b", file)], turn_s=0.3, timeout_s=60)
    letters = file.read_text()
    assert sorted(letters) == ["a"] * 60 + ["b"] * 60
    blocks = [letter for letter, _ in groupby(letters)]
    assert 4 <= len(blocks) <= 30, "in blocks: side by side they would alternate with every letter"
    assert (tmp_path / "a").exists()
    assert (tmp_path / "b").exists()


def test_work_that_ends_early_is_an_error(turns: ModuleType) -> None:
    with pytest.raises(FedSerDiffError, match="ended before it was at its end"):
        turns.take_turns(ends, [None], turn_s=0.1, timeout_s=60)


def test_work_that_never_gets_ready_is_given_up(turns: ModuleType) -> None:
    with pytest.raises(FedSerDiffError, match="not ready within 3 s"):
        turns.take_turns(never_ready, [None], turn_s=0.1, timeout_s=3)

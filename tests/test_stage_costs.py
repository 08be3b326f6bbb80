"""What ``scripts/benchmark.py scale`` says about the growth of a stage's costs."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def stage_costs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("benchmarks.stage_costs")


def costs(stages: int, out: int = 0, into: int = 0) -> list[dict[str, float]]:
    """Stages whose bytes grow by `out` and `into` a stage, and whose first is like no other."""
    steady = {"seconds": 2.0, "coordinator": 700.0, "worker": 600.0}
    return [
        {"stage": s, **steady, "bytes out": 10_000 * (1 + 9 * (s == 1)) + out * s, "bytes in": 20_000 + into * s}
        for s in range(1, stages + 1)
    ]


def test_the_last_ten_stages_are_held_against_the_ten_from_the_second(stage_costs: ModuleType) -> None:
    medians = stage_costs.medians(costs(50, into=1000))
    assert list(medians) == ["stages 2 to 11", "stages 41 to 50"]
    assert [part["bytes in"] for part in medians.values()] == [20_000 + 6500, 20_000 + 45_500]
    assert [part["bytes out"] for part in medians.values()] == [10_000, 10_000], "stage 1 is in neither"


def test_bytes_that_grow_are_named_and_those_that_do_not_are_called_flat(stage_costs: ModuleType) -> None:
    assert stage_costs.growth(costs(30))[-1].endswith("bytes in +0.0 %; bytes are flat")
    assert stage_costs.growth(costs(30, into=300))[-1].endswith("bytes are NOT flat: bytes in grow along the stream")
    both = stage_costs.growth(costs(30, out=90, into=300))[-1]
    assert both.endswith("bytes are NOT flat: bytes out and bytes in grow along the stream")


def test_a_short_stream_is_held_against_itself(stage_costs: ModuleType) -> None:
    assert list(stage_costs.medians(costs(3))) == ["stages 2 to 3"]
    assert "medians of stages 2 to 3: seconds 2.00 s" in stage_costs.growth(costs(3))[0]

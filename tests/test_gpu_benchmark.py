"""``scripts/benchmark.py gpu`` at toy size on the CPU: its rows, its medians, and the result if a part fails."""

import importlib
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from fedserdiff.diffusion.refiner import new_student
from fedserdiff.experiments import step_time
from fedserdiff.experiments.random_hospital import random_hospital, random_orders
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.threads import use_cpus

ROOT = Path(__file__).parents[1]
PEERS = {"nnU-Net's volume", "nnU-Net's training step"}  # whose package may not be there


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield


@pytest.fixture
def command() -> ModuleType:
    return importlib.import_module("benchmarks.gpu.command")


@pytest.fixture
def bench() -> ModuleType:
    return importlib.import_module("benchmarks.gpu.bench")


def measured(out: Path, *options: str) -> tuple[Result, dict[str, Any]]:
    app = importlib.import_module("benchmark").app
    answer = CliRunner().invoke(app, ["gpu", "--out", str(out), *options])
    return answer, json.loads(out.read_text()) if out.exists() else {}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setitem(sys.modules, "dynamic_network_architectures.architectures.unet", None)
        return measured(tmp_path_factory.mktemp("gpu") / "gpu.json")


def test_every_part_has_its_rows_and_each_the_median_of_its_values(
    toy: tuple[Result, dict[str, Any]], command: ModuleType
) -> None:
    answer, report = toy
    assert answer.exit_code == 0, answer.output
    assert report["size"] == "toy"
    assert report["device"].startswith("CPU, ")
    assert report["machine"]["cores"] >= 1
    assert report["config"]["paper"]["data"]["spatial_dims"] == 3
    rows = {row["what"]: row for row in report["rows"]}
    assert [part.name for part in command.PARTS] == list(dict.fromkeys(row["part"] for row in report["rows"]))
    missing = [row for row in report["rows"] if row["median"] is None]
    assert {row["part"] for row in missing} == PEERS
    assert all("pip install 'fedserdiff[benchmark]'" in row["how"] for row in missing)
    for row in report["rows"]:
        if row["part"] not in PEERS:
            assert row["median"] == statistics.median(row["values"]) > 0
            assert row["unit"] in ("ms", "s", "GB/s", "TFLOP/s", "µs")
            assert row["peak_gib"] is None
            assert row["what"] in answer.output
    for of in ("laptop", "paper"):
        for what in (
            "a step of stage 1, ser-diff-plus", "a step of stage 2, ser-diff-plus", "a step of stage 2, ser-diff",
            "loading a batch", "coarse network, forwards and backwards", "refiner, forwards and backwards",
        ):  # fmt: skip
            assert f"{of}: {what}" in rows
    counted = [row["predicted_gib"] for what, row in rows.items() if what.startswith("paper: a step")]
    assert 0 < counted[0] < min(counted[1:]), "a teacher, and what it holds the student to"


def test_parts_of_a_step_are_the_step(toy: tuple[Result, dict[str, Any]]) -> None:
    """Within what another process on the same cores can do to either."""
    rows = {row["what"]: row["median"] for row in toy[1]["rows"]}
    step, parts = rows["paper: a step of stage 1, ser-diff-plus"], ("coarse network", "refiner")
    assert 0.2 * step < sum(rows[f"paper: {part}, forwards and backwards"] for part in parts) < 5 * step
    assert 0.2 * step < rows["paper: operations of a step of stage 1 alone"] < 5 * step


def test_what_fails_says_so_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: ModuleType, bench: ModuleType
) -> None:
    out, seen = tmp_path / "gpu.json", []

    def full(_: Any) -> Iterator[Any]:
        yield bench.Row("before", "ms", (3.0, 1.0, 2.0))
        seen.append(json.loads(out.read_text())["rows"])  # a run that is cut off here keeps what it has
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nand more")

    def missing(_: Any) -> Iterator[Any]:
        raise ModuleNotFoundError("No module named 'peer'")
        yield

    def last(_: Any) -> Iterator[Any]:
        seen.append(json.loads(out.read_text())["rows"])
        yield bench.Row("after", "s", (4.0, 8.0))

    parts = [bench.Part(name, 1, part) for name, part in (("full", full), ("missing", missing), ("last", last))]
    monkeypatch.setattr(command, "PARTS", parts)
    answer, report = measured(out, "--size", "toy")
    assert answer.exit_code == 0, answer.output
    assert [(row["part"], row["what"], row["median"]) for row in report["rows"]] == [
        ("full", "before", 2.0), ("full", "full", None), ("missing", "missing", None), ("last", "after", 6.0),
    ]  # fmt: skip
    assert report["rows"][1]["how"] == "out of memory: CUDA out of memory. Tried to allocate 2 GiB."
    assert report["rows"][2]["how"] == "ModuleNotFoundError: No module named 'peer'"
    assert seen == [report["rows"][:1], report["rows"][:3]]
    assert set(report["part_s"]) == {"full", "missing", "last"}


def test_a_part_for_which_no_time_is_left_is_left_out(command: ModuleType, bench: ModuleType) -> None:
    on = bench.Bench(bench.SIZES["full"], torch.device("cpu"))
    part = bench.Part("long", 30, lambda _: iter([bench.Row("it", "s", (1.0,))]))
    assert [row.what for row in command._measured(part, on, 31)] == ["it"]
    (row,) = command._measured(part, on, 29)
    assert (row.what, row.values, row.how) == ("long", (), "skipped: it takes some 30 s, but 29 s were left")
    assert sum(part.expected_s for part in command.PARTS[:-1]) < command._SECONDS


def test_full_size_is_refused_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    answer, report = measured(tmp_path / "gpu.json", "--size", "full")
    assert (answer.exit_code, report) == (1, {})
    assert "use --size toy instead" in " ".join(answer.stderr.split())


def test_repeats_end_with_their_number_or_their_time(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    on = bench.Bench(bench.SIZES["toy"], torch.device("cpu"))
    done: list[int] = []
    assert len(on.timed(lambda: done.append(1))) == on.size.repeats == len(done) - bench._WARM_UP
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(now)))
    assert on.timed(lambda: None, times=2) == (5.0,), "10 s for two of it, and no time for more"


def steps_timed(
    monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float], **options: Any
) -> tuple[list[float], list[torch.device]]:
    """Time steps by a clock of the test's; return the figures, and on what was waited for."""
    waits: list[torch.device] = []
    monkeypatch.setattr(step_time, "finish", waits.append)
    monkeypatch.setattr(step_time.time, "perf_counter", clock)
    sites = tuple(Site(f"site-{number}", "brats2021", "") for number in (1, 2))
    config = make_settings("smoke", method="fine-tune").replace(sites=sites)
    use_cpus(1)
    student = new_student(config)
    order = random_orders(config, student)[0]
    return step_time.step_seconds(student, order, random_hospital(config), config, **options), waits


def test_steps_are_timed_in_blocks_and_the_device_is_waited_for_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 6.0, 10.0])
    found, waits = steps_timed(monkeypatch, lambda: next(now), blocks=2, size=2, warm_up=3)
    assert (found, len(waits)) == ([3.0, 2.0], 3)
    now = iter(range(0, 1000, 10))
    found, waits = steps_timed(monkeypatch, lambda: float(next(now)), blocks=50, size=1, limit_s=25.0)
    assert (found, len(waits)) == ([10.0] * 3, 4), "the third block ends after 30 s"

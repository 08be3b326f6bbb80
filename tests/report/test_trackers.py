"""A run in TensorBoard and MLflow, read back by their own libraries."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedserdiff.commands.main import load
from fedserdiff.errors import ConfigError
from fedserdiff.report.curves import Point
from fedserdiff.report.events import AllOf, RunEvents
from fedserdiff.report.trackers import TRACKERS, TrackedRun, open_tracker
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings

Series = Mapping[str, list[tuple[int, float]]]

CONFIG = make_settings(
    "smoke",
    method="ewc",
    seed=3,
    sites=(Site("north", "brats2021", "/secret/north", ("BraTS2021_00001",)), Site("west", "brats2023-gli", "/w")),
)
RESULTS = {
    "stages": ["untrained", "north", "west"],
    "bwt": {"dice": {"mean": -0.5}, "hd95": {"mean": -30.0}},
    "fwt": {"dice": {"mean": None}, "hd95": {"mean": None}},
    "forgetting": {"dice": {"mean": 0.25}, "hd95": {"mean": 8.0}},
    "forgetting_rate": {"dice": {"mean": 0.125}, "hd95": {"mean": 0.5}},
    "bytes_out": {"north": {"arrays": 1000, "metrics": 24}, "west": {}},
}


def scores(level: float) -> dict[str, float]:
    """Dice level, level + 0.25, level + 0.5 of TC, WT, ET; HD95 16 times that; coarse masks score nothing like it."""
    by_region = {region: level + 0.25 * place for place, region in enumerate(("tc", "wt", "et"))}
    return {
        f"{mask}.{metric}.{region}": factor * dice
        for mask, away in (("refined", 1), ("coarse", -1))
        for metric, factor in (("dice", away), ("hd95", 16 * away))
        for region, dice in by_region.items()
    }


def tell(events: RunEvents, stages: range, fails: bool = False) -> None:
    """What a run of two rounds a stage tells: losses 10 × stage + round, Dice stage / 8."""
    if stages.start == 1:
        events.stage_evaluated(0, {"north": scores(0), "west": scores(0.5)})
    for stage in stages:
        events.stage_started(stage, 2, "north", ["north"])
        for server_round in (1, 2):
            events.round_started(server_round, 2)
            events.round_finished({"segmentation": 10.0 * stage + server_round})
            if fails:
                raise KeyboardInterrupt
        if stage == 2:
            points = [Point(2, 1, step, {"rate": 1 / step, "loss.a": float("nan")}) for step in (4, 8)]
            events.stage_validated(2, {"north": points})
        events.stage_evaluated(stage, {"north": scores(stage / 8)})


def of_tensorboard(run: Path) -> tuple[Series, str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run / "tensorboard"))
    read.Reload()
    series = {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    return series, read.Tensors("settings/text_summary")[-1].tensor_proto.string_val[0].decode()


def of_mlflow(run: Path) -> tuple[Series, str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run / 'mlruns' / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == run.name]
    (one,) = client.search_runs([experiment.experiment_id])
    assert Path(experiment.artifact_location.removeprefix("file://")) == Path(str(run).replace(" ", "%20")) / "mlruns"
    assert one.info.status == "FINISHED"
    series = {
        name: [
            (m.step, m.value) for m in sorted(client.get_metric_history(one.info.run_id, name), key=lambda m: m.step)
        ]
        for name in one.data.metrics
    }
    return series, "\n".join(f"| {name} | {value} |" for name, value in one.data.params.items())


@pytest.fixture(params=[("tensorboard", of_tensorboard), ("mlflow", of_mlflow)], ids=lambda param: param[0])
def tracked(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Callable[[], tuple[Series, str]], Path]:
    """A tracker that is installed, how to read what it wrote, and the run's folder."""
    name, read = request.param
    pytest.importorskip(TRACKERS[name])
    run = tmp_path / "my run"
    run.mkdir()
    return name, lambda: read(run), run


def test_every_loss_score_and_setting_of_a_run_is_there_once(tracked: Any) -> None:
    name, read, folder = tracked
    with TrackedRun(open_tracker(name, folder), CONFIG, "phantom") as run:
        tell(run, range(1, 3))
        run.finished(RESULTS)
    series, settings = read()
    assert series["loss/segmentation"] == [(1, 11), (2, 12), (3, 21), (4, 22)]
    assert series["R.dice.mean/north"] == [(0, 0.25), (1, 0.375), (2, 0.5)]
    assert series["R.dice.et/north"] == [(0, 0.5), (1, 0.625), (2, 0.75)]
    assert series["R.hd95.tc/north"] == [(0, 0), (1, 2), (2, 4)]
    assert series["R.hd95.mean/west"] == [(0, 12)]
    assert series["curves/stage 2/rate/north"] == [(4, 0.25), (8, 0.125)]
    assert series["stream/bwt.dice"] == [(2, -0.5)]
    assert series["stream/forgetting.hd95"] == [(2, 8)]
    assert series["bytes out/north"] == [(2, 1024)]
    assert series["bytes out/west"] == [(2, 0)]
    assert not [name for name in series if "fwt" in name], "a score that a stream does not have is left out"
    assert len(series) == 1 + 2 * 8 + 1 + 6 + 2
    for line in ("| method.name | ewc |", "| seed | 3 |", "| data | phantom |", "| method.weight | 10000.0 |"):
        assert line in settings
    assert "| sites | north (brats2021), west (brats2023-gli) |" in settings
    assert "secret" not in settings
    assert "BraTS2021_00001" not in settings


def test_a_run_that_goes_on_goes_on_in_the_same_place(tracked: Any) -> None:
    name, read, folder = tracked
    with pytest.raises(KeyboardInterrupt), TrackedRun(open_tracker(name, folder), CONFIG, "phantom") as run:
        tell(run, range(1, 3), fails=True)
    with TrackedRun(open_tracker(name, folder), CONFIG.replace({"machine.retries": 5}), "phantom") as run:
        tell(run, range(2, 3))
        run.finished(RESULTS)
    assert read()[0]["loss/segmentation"] == [(1, 11), (3, 21), (4, 22)]
    assert [path.name for path in folder.iterdir()] == ["mlruns" if name == "mlflow" else "tensorboard"]


def test_all_listeners_hear_every_event() -> None:
    heard: list[tuple[str, str]] = []
    events = [name for name in vars(RunEvents) if not name.startswith("_")]

    def listener(who: str) -> RunEvents:
        methods = {name: lambda self, *_, name=name, **__: heard.append((who, name)) for name in events}
        return type("Listener", (RunEvents,), methods)()

    both = AllOf(listener("one"), listener("other"))
    for name in events:
        getattr(both, name)("anything")
    assert heard == [(who, name) for name in events for who in ("one", "other")]
    assert len(events) >= 11


def test_without_a_tracker_nothing_is_written(tmp_path: Path) -> None:
    with TrackedRun(open_tracker(None, tmp_path), CONFIG, "phantom") as run:
        tell(run, range(1, 3))
        run.finished(RESULTS)
    assert not any(tmp_path.iterdir())


def test_an_unknown_tracker_and_one_that_is_not_installed_are_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else found(name))
    for name, said in (
        ("wandb", "unknown tracker 'wandb': choose one of tensorboard, mlflow"),
        ("mlflow", "mlflow is not installed: pip install 'fedserdiff[mlflow]'"),
    ):
        done = CliRunner().invoke(load("simulate"), ["--tracker", name, "--profile", "smoke"])
        assert done.exit_code == 1
        assert f"error: --tracker: {said}" in done.output
        with pytest.raises(ConfigError):
            open_tracker(name, tmp_path)
    assert not any(tmp_path.iterdir())

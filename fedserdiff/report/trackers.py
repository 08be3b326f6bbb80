"""Metrics of a run for TensorBoard or MLflow, written only as files in the run's own folder."""

import importlib.util
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fedserdiff.errors import ConfigError, StorageError
from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.report.curves import Point
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Settings
from fedserdiff.text import readable

TRACKERS: Mapping[str, str] = MappingProxyType({"tensorboard": "tensorboard", "mlflow": "mlflow"})
"""Required package by tracker name; the name is also that of the extra that installs it."""

_OF_THE_STREAM = ("bwt", "fwt", "forgetting", "forgetting_rate")


class Tracker:
    """Receiver of values by name and step; this base class ignores them."""

    def settings(self, values: Mapping[str, str]) -> None:
        """Record the run's settings; a resumed run has recorded them already."""

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Record the values of one round or stage; they are on disk when this returns."""

    def close(self, finished: bool) -> None:
        """Close the tracker after the run; `finished` is false if it was interrupted or failed."""


def check_tracker(name: str | None, run: Path | None = None) -> None:
    """Check that a tracker is known, its package is installed, and it can write into the run's folder.

    Raises
    ------
    ConfigError
        If one of these does not hold; the text says what to do.
    """
    if name is None:
        return
    if name not in TRACKERS:
        raise ConfigError(f"--tracker: unknown tracker {name!r}: choose one of {', '.join(TRACKERS)}")
    if importlib.util.find_spec(TRACKERS[name]) is None:
        raise ConfigError(f"--tracker: {name} is not installed: pip install 'fedserdiff[{name}]'")
    if run is not None and readable(str(run)) != str(run):
        raise ConfigError(
            f"--tracker: {run}: {name} cannot write into a folder whose name is not UTF-8; give another --out"
        )


def open_tracker(name: str | None, run: Path) -> Tracker:
    """Return the named tracker, which writes into the run's folder; without a name, one that ignores everything."""
    check_tracker(name, run)
    if name == "tensorboard":
        return _TensorBoard(run / "tensorboard")
    if name == "mlflow":
        return _MlFlow(run / "mlruns", run.resolve().name)
    return Tracker()


class _TensorBoard(Tracker):
    """Writer of event files for ``tensorboard --logdir``."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def settings(self, values: Mapping[str, str]) -> None:
        rows = "\n".join(f"| {name} | {value} |" for name, value in values.items())
        self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, finished: bool) -> None:
        self._writer.close()


class _MlFlow(Tracker):
    """Writer of one MLflow run into an SQLite database; MLflow no longer writes plain files by default."""

    def __init__(self, folder: Path, run_name: str) -> None:
        from mlflow.tracking import MlflowClient

        folder.mkdir(exist_ok=True)
        self._folder = folder
        for talkative in ("mlflow", "alembic"):  # they log every table that they create
            logging.getLogger(talkative).setLevel(logging.WARNING)
        with self._clear_errors():
            self._client = MlflowClient(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
            there = self._client.get_experiment_by_name(run_name)
            self._goes_on = there is not None
            if there is None:
                experiment = self._client.create_experiment(run_name, folder.resolve().as_uri())
                self._id = self._client.create_run(experiment, run_name=run_name).info.run_id
            else:
                self._id = self._client.search_runs([there.experiment_id])[0].info.run_id
                self._client.update_run(self._id, "RUNNING")

    def settings(self, values: Mapping[str, str]) -> None:
        if self._goes_on:  # a setting cannot be changed
            return
        with self._clear_errors():
            for name, value in values.items():
                self._client.log_param(self._id, name, value)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        with self._clear_errors():
            now = int(1000 * time.time())
            metrics = [Metric(name, value, now, step) for name, value in values.items()]
            self._client.log_batch(self._id, metrics)

    def close(self, finished: bool) -> None:
        with self._clear_errors():
            self._client.set_terminated(self._id, "FINISHED" if finished else "FAILED")

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            raise StorageError(f"{self._folder}: MLflow cannot write into this folder: {error}") from None


class TrackedRun(RunEvents):
    """A listener that records each round's losses, each row of R and, at the end, the scores of the stream.

    Names are ``loss/TERM`` by round, counted over all stages, and ``R.METRIC.REGION/SITE`` by stage. At the end
    ``stream/SCORE.METRIC`` and ``bytes out/SITE`` follow, at the number of stages. If hospitals validate during
    training, there is ``curves/stage K/VALUE/SITE`` by step of the stage, with the names of
    `fedserdiff.report.curves`. Units are those of ``results.json``: Dice in [0, 1], HD95 in mm.

    Parameters
    ----------
    tracker : Tracker
        Closed at the end of the context.
    config : Settings
        Settings to record at the beginning. Of the sites only name and release are recorded, no path and no case.
    data : str
        Description of the data, such as ``phantom``.
    """

    def __init__(self, tracker: Tracker, config: Settings, data: str) -> None:
        self._tracker = tracker
        self._rounds = config.rounds
        self._round = self._stage = 0
        settings = {name: str(value) for name, value in config.by_name.items()}
        settings["sites"] = ", ".join(f"{site.name} ({site.release})" for site in config.sites)
        self._settings = {**settings, "data": data}

    def __enter__(self) -> "TrackedRun":
        self._tracker.settings(self._settings)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._tracker.close(finished=kind is None)

    def stage_started(self, stage: int, stages: int, name: str, participants: object) -> None:
        self._stage = stage

    def round_started(self, server_round: int, rounds: int) -> None:
        self._round = (self._stage - 1) * rounds + server_round

    def round_finished(self, losses: Mapping[str, float]) -> None:
        self._tracker.numbers({f"loss/{name}": value for name, value in losses.items()}, self._round)

    def stage_validated(self, stage: int, curves: Mapping[str, Sequence[Point]]) -> None:
        for site, points in curves.items():
            for point in points:
                finite = {name: value for name, value in point.values.items() if math.isfinite(value)}
                named = {f"curves/stage {stage}/{name}/{site}": value for name, value in finite.items()}
                self._tracker.numbers(named, point.step)

    def stage_evaluated(self, stage: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        row = {}
        for site, of_site in scores.items():
            for metric in dict.fromkeys(name.split(".")[1] for name in of_site):
                row[f"R.{metric}.mean/{site}"] = mean_over_regions(of_site, "refined", metric)
                names = [name for name in of_site if name.startswith(f"refined.{metric}.")]
                row |= {f"R.{name.removeprefix('refined.')}/{site}": of_site[name] for name in names}
        self._tracker.numbers(row, stage)

    def finished(self, results: Mapping[str, Any]) -> None:
        """Record the final values of ``results.json``: the stream's scores, if there are any, and the bytes sent."""
        scores = {
            f"stream/{name}.{metric}": results[name][metric]["mean"]
            for name in _OF_THE_STREAM
            for metric in results[name]
        }
        sent = {f"bytes out/{site}": float(sum(kinds.values())) for site, kinds in results["bytes_out"].items()}
        known = {name: value for name, value in scores.items() if value is not None}
        self._tracker.numbers(known | sent, len(results["stages"]) - 1)

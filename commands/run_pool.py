"""Many runs, several at a time: those that are done are reused, and stage 1 is computed once for all methods."""

import contextlib
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn

from commands.simulation import Federation, run_simulation
from fedserdiff.config import ExperimentConfig
from fedserdiff.errors import ConfigError, FederationError, FedSerDiffError
from fedserdiff.report.console import Bars
from fedserdiff.report.events import RunEvents
from fedserdiff.text import readable
from sites.client_app import PROGRESS_FILE
from sites.hospital import open_hospital
from strategies.first_stage import begins_with_first_stage
from strategies.run_directory import RunDirectory, other_versions

_POLL_S = 0.5
_STATUS, _ERROR, _OUTPUT = "status.txt", "error.txt", "output.log"


@dataclass(frozen=True)
class _Job:
    """One run to do: its config, its folder, and the folder of the stage 1 that it goes on from, where it does."""

    config: ExperimentConfig
    folder: Path
    first_stage: Path | None = None
    only_first: bool = False


class RunPool:
    """Finished runs under `root`, found by their config, and processes that add the missing ones.

    A run's folder appears under its name when it is finished, so that whatever stops this process, the same call goes
    on from the runs that had ended.

    Parameters
    ----------
    root : Path
        Folder of the runs (``runs/``) and of the shared stages 1 (``first-stages/``).
    cache : Path
        Of prepared cases.
    parallel : int
        Runs at a time, each on a Ray of its own with `cpus_per_site` CPUs.
    console : Console
        For progress.
    data : str
        Whose scans the runs are on, as results say it.
    """

    def __init__(self, root: Path, cache: Path, parallel: int, console: Console, data: str) -> None:
        self._runs = root / "runs"
        self._firsts = root / "first-stages"
        self._cache = cache
        self._parallel = parallel
        self._console = console
        self._data = data

    def complete(self, configs: Sequence[ExperimentConfig]) -> list[Path]:
        """Return the folder of a finished run of each config, doing those that are missing.

        Raises
        ------
        ConfigError
            Where another process is at work in the same folder.
        FederationError
            Where a run fails; runs that had ended are kept.
        """
        self._runs.mkdir(parents=True, exist_ok=True)
        self._firsts.mkdir(parents=True, exist_ok=True)
        with self._alone():
            wanted = list(dict.fromkeys(configs))
            missing = [config for config in wanted if self._find(self._runs, config) is None]
            if missing:
                self._console.print(f"{len(wanted) - len(missing)} of {len(wanted)} runs are done already")
                firsts = dict.fromkeys(c.of_first_stage() for c in missing if begins_with_first_stage(c))
                unmade = [config for config in firsts if self._find(self._firsts, config) is None]
                self._work([*unmade], [*missing])
        return [self._found(self._runs, config) for config in configs]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = self._runs.parent / ".lock"
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(f"{self._runs.parent}: another comparison is at work here") from None
            yield

    def _find(self, folder: Path, config: ExperimentConfig) -> Path | None:
        """Return the finished run of exactly this config, made with the versions that are installed now."""
        for run in sorted(folder.iterdir()):
            about = run / "config.json"
            if run.suffix == ".partial" or not about.is_file():
                continue
            values = json.loads(about.read_text())
            versions = values.get("versions", {})
            try:
                if not other_versions(versions) and ExperimentConfig.from_dict(values) == config:
                    return run
            except ConfigError:
                continue  # of another version of this software, or of what it was made with
        return None

    def _found(self, folder: Path, config: ExperimentConfig) -> Path:
        run = self._find(folder, config)
        assert run is not None, "every missing run has been done"
        return run

    def _name(self, folder: Path, config: ExperimentConfig, taken: set[Path]) -> Path:
        """Return a free folder for a run: other configs of the same method and seed are numbered."""
        plain = f"{config.method}-seed{config.seed}" if folder == self._runs else f"seed{config.seed}"
        number = 1
        while (name := folder / (plain if number == 1 else f"{plain}-{number}")) in taken or name.exists():
            number += 1
        taken.add(name)
        return name

    def _work(self, firsts: list[ExperimentConfig], runs: list[ExperimentConfig]) -> None:
        """Do the jobs, shared stages 1 first, as many at a time as may be."""
        taken: set[Path] = set()
        running: dict[_Job, SpawnProcess] = {}
        failures: list[str] = []
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn())
        with Bars(self._console, *columns) as progress:
            overall = progress.add_task("all runs", total=len(firsts) + len(runs))
            bars: dict[_Job, TaskID] = {}
            try:
                while running or ((firsts or runs) and not failures):
                    while len(running) < self._parallel and not failures:
                        job = self._next(firsts, runs, taken)
                        if job is None and not running:
                            raise FederationError(f"{self._firsts}: a shared stage 1 is not what it was made as")
                        if job is None:
                            break
                        running[job] = self._start(job)
                        bars[job] = progress.add_task(job.folder.name, total=None)
                    time.sleep(_POLL_S)
                    for job, process in list(running.items()):
                        progress.update(bars[job], **_status(job))
                        if process.exitcode is None:
                            continue
                        del running[job]
                        progress.remove_task(bars.pop(job))
                        failures += self._end(job, process)
                        progress.advance(overall)
            finally:
                for process in running.values():
                    _kill(process)
        if failures:
            raise FederationError("; ".join(failures))

    def _next(self, firsts: list[ExperimentConfig], runs: list[ExperimentConfig], taken: set[Path]) -> _Job | None:
        """Take the next job that can begin: a stage 1, or a run whose stage 1 is there or is not shared."""
        if firsts:
            config = firsts.pop(0)
            return _Job(config, self._name(self._firsts, config, taken), only_first=True)
        for config in runs:
            shared = begins_with_first_stage(config)
            first = self._find(self._firsts, config.of_first_stage()) if shared else None
            if first is not None or not shared:
                runs.remove(config)
                return _Job(config, self._name(self._runs, config, taken), first)
        return None

    def _start(self, job: _Job) -> SpawnProcess:
        partial = _partial(job)
        if not _goes_on(partial, job.config):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        values = (job.config.to_dict(), self._data, partial, self._cache, job.first_stage, job.only_first)
        process = multiprocessing.get_context("spawn").Process(target=_run, args=values)
        process.start()
        return process

    def _end(self, job: _Job, process: SpawnProcess) -> list[str]:
        """Give a finished run its name, or return what went wrong."""
        partial = _partial(job)
        if process.exitcode == 0:
            for name in (_STATUS, _OUTPUT, _ERROR):
                (partial / name).unlink(missing_ok=True)
            partial.rename(job.folder)
            seconds = json.loads((job.folder / "results.json").read_text())["seconds"]
            what = "stage 1 for all methods, " if job.only_first else ""
            self._console.print(
                f"{what}{escape(job.folder.name)}: done, {sum(seconds.values()):.0f} s of computation"
                + (", stage 1 reused" if job.first_stage else "")
            )
            return []
        error = partial / _ERROR
        text = error.read_text(encoding="utf-8") if error.is_file() else f"its process ended with {process.exitcode}"
        return [f"{job.folder.name}: {text} (see {partial})"]


def _goes_on(partial: Path, config: ExperimentConfig) -> bool:
    """Say whether a folder holds the state of a run of exactly this config, with what is installed now."""
    run = RunDirectory(partial)
    try:
        return run.can_go_on and run.read_config()[0] == config
    except ConfigError:
        return False


def _partial(job: _Job) -> Path:
    return job.folder.with_name(f"{job.folder.name}.partial")


def _status(job: _Job) -> dict[str, Any]:
    """Read how far a run is, from its folder."""
    folder = _partial(job)
    with contextlib.suppress(OSError, ValueError):
        site, about = (folder / _STATUS).read_text(encoding="utf-8").split("\n")
        shown: dict[str, Any] = {"description": f"{job.folder.name}: {about}", "total": None}
        file = folder / "hospitals" / site / PROGRESS_FILE
        if site and file.stat().st_mtime >= (folder / _STATUS).stat().st_mtime:
            state = json.loads(file.read_text())
            shown |= {"completed": state["step"], "total": state["steps"]}
        return shown
    return {}


def _kill(process: SpawnProcess) -> None:
    """End a run's process and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.kill()
    process.join()


class _StatusFile(RunEvents):
    """Write what a run is doing to a file that the pool's process reads: the site at work, and a line."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def _say(self, site: str, about: str) -> None:
        partial = self._file.with_suffix(".partial")
        partial.write_text(f"{site}\n{about}", encoding="utf-8")
        partial.replace(self._file)

    def waiting(self, sites: Sequence[str], timeout_s: float) -> None:
        self._say("", f"waiting for {', '.join(sites)}" if sites else "about to train")

    def stage_started(self, stage: int, stages: int, name: str, participants: Sequence[str]) -> None:
        self._say(participants[0], f"stage {stage}/{stages} · {name}")

    def consolidation_started(self, stage: int, sites: Sequence[str]) -> None:
        self._say("", f"consolidating stage {stage}")

    def evaluation_started(self, stage: int, sites: Sequence[str]) -> None:
        self._say("", f"scoring after stage {stage}" if stage else "scoring the untrained student")


def _run(
    values: dict[str, Any], data: str, folder: Path, cache: Path, first_stage: Path | None, only_first: bool
) -> None:
    """Do one run, in a process and a process group of its own; its error, if any, is left in the folder."""
    os.setsid()
    with (folder / _OUTPUT).open("w") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    config = ExperimentConfig.from_dict(values)
    try:
        hospitals = tuple(open_hospital(site, config, cache) for site in config.sites)
        run_simulation(
            Federation(config, hospitals, (), data=data),
            RunDirectory(folder),
            cache,
            _StatusFile(folder / _STATUS),
            ray_cpus=int(config.cpus_per_site),
            first_stage=first_stage,
            only_first=only_first,
        )
    except (FedSerDiffError, OSError) as error:
        folder.mkdir(exist_ok=True)  # a run that never began has removed it
        (folder / _ERROR).write_text(readable(str(error)), encoding="utf-8")
        sys.exit(1)

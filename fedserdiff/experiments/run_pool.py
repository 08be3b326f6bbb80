"""A pool of runs, several at a time: finished runs are reused, and stage 1 is computed once for all methods."""

import contextlib
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn

from fedserdiff.errors import ConfigError, FederationError, FedSerDiffError, os_error_text
from fedserdiff.experiments.opened_federation import Federation
from fedserdiff.experiments.simulation import run_simulation
from fedserdiff.locks import try_lock
from fedserdiff.origin import Origin, Scans
from fedserdiff.report.console import Bars
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Settings
from fedserdiff.text import readable
from sites.client_app import PROGRESS_FILE
from sites.hospital import open_hospital
from strategies.first_stage import begins_with_first_stage
from strategies.run_directory import RunDirectory

_POLL_S = 0.5
_STATUS, _ERROR, _OUTPUT, _PARTIAL = "status.txt", "error.txt", "output.log", ".partial"


@dataclass(frozen=True, eq=False)
class _Job:
    """A run to do: its config and scans, its folder, and the folder of a shared stage 1 to continue from, if any."""

    config: Settings
    scans: Scans
    folder: Path
    first_stage: Path | None = None
    only_first: bool = False


class RunPool:
    """Finished runs under `root`, found by their origin, and processes that add the missing ones.

    A run's folder gets its name when the run is finished. If this process is stopped, the same call therefore continues
    from the finished runs. Runs from other scans or versions stay where they are, unused.

    Parameters
    ----------
    root : Path
        Folder of the runs (``runs/``) and of the shared stages 1 (``first-stages/``).
    cache : Path
        Folder of prepared cases.
    parallel : int
        Number of runs at a time, each with its own Ray of `cpus_per_site` CPUs.
    console : Console
        Console for progress.
    data : str
        Name of the data, as in results.
    """

    def __init__(self, root: Path, cache: Path, parallel: int, console: Console, data: str) -> None:
        self._runs = root / "runs"
        self._firsts = root / "first-stages"
        self._cache = cache
        self._parallel = parallel
        self._console = console
        self._data = data
        self._origins: dict[Path, Origin | None] = {}
        self._scans: dict[Settings, Scans] = {}

    def complete(self, wanted: Mapping[Settings, Scans]) -> dict[Settings, Path]:
        """Return the folder of a finished run for each config on its scans; do the missing runs.

        Raises
        ------
        ConfigError
            If another process is working in the same folder.
        FederationError
            If a run fails or scans change during it; finished runs are kept.
        """
        self._runs.mkdir(parents=True, exist_ok=True)
        self._firsts.mkdir(parents=True, exist_ok=True)
        self._scans = {**wanted, **{config.of_first_stage(): scans for config, scans in wanted.items()}}
        with self._alone():
            missing = [config for config in wanted if self._find(self._runs, config) is None]
            if missing:
                self._console.print(f"{len(wanted) - len(missing)} of {len(wanted)} runs are done already")
                firsts = dict.fromkeys(c.of_first_stage() for c in missing if begins_with_first_stage(c))
                unmade = [config for config in firsts if self._find(self._firsts, config) is None]
                self._tell_of_unused(self._runs, wanted)
                self._tell_of_unused(self._firsts, firsts)
                self._work([*unmade], [*missing])
        return {config: self._found(config) for config in wanted}

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._runs.parent / ".lock").open("w") as file:
            if not try_lock(file.fileno()):
                raise ConfigError(
                    f"{self._runs.parent}: another comparison is running in this folder; wait for it or give another "
                    "folder"
                )
            yield

    def _made_of(self, folder: Path) -> dict[Path, Origin]:
        """Return the origin of each run in a folder, also of unfinished ones; read finished ones only once."""
        runs = sorted(folder.iterdir())
        for run in runs:
            if run not in self._origins or run.suffix == _PARTIAL:
                try:
                    self._origins[run] = RunDirectory(run).read_origin() if RunDirectory(run).begun else None
                except ConfigError:  # from another version of this software, or damaged
                    self._origins[run] = None
        return {run: made for run in runs if (made := self._origins[run]) is not None}

    def _find(self, folder: Path, config: Settings) -> Path | None:
        """Return the finished run of exactly this config, on its scans, with the versions installed now."""
        for run, made in self._made_of(folder).items():
            if run.suffix != _PARTIAL and not made.difference(config, self._scans[config]):
                return run
        return None

    def _tell_of_unused(self, folder: Path, wanted: Iterable[Settings]) -> None:
        """Print the runs that are not used only because they come from other scans or versions."""
        wanted = list(wanted)
        for run, made in self._made_of(folder).items():
            different = [made.difference(config, self._scans[config]) for config in wanted]
            why = [one for one in different if not one.settings]
            if why and all(why):
                name = escape(str(run.relative_to(self._runs.parent)))
                self._console.print(f"{name} is kept but not used: {escape(str(why[0]))}", soft_wrap=True)

    def _found(self, config: Settings) -> Path:
        run = self._find(self._runs, config)
        if run is None:
            raise FederationError(f"{self._runs}: scans have changed during the runs; run this again")
        return run

    def _folder(self, folder: Path, config: Settings, taken: set[Path]) -> Path:
        """Return the folder that a run will have once it is finished: its own if it has begun, otherwise an unused one.

        Further runs of the same method and seed are numbered.
        """
        made_of = self._made_of(folder)
        begun = [run for run in sorted(folder.glob(f"*{_PARTIAL}")) if RunDirectory(run).can_go_on]
        own = [run for run in begun if run in made_of and not made_of[run].difference(config, self._scans[config])]
        plain = f"{config.method.name}-seed{config.seed}" if folder == self._runs else f"seed{config.seed}"
        names = (folder / (plain if number == 1 else f"{plain}-{number}") for number in itertools.count(1))
        unused = (name for name in names if _partial(name) not in begun)
        every = itertools.chain((run.with_suffix("") for run in own), unused)
        found = next(name for name in every if name not in taken and not name.exists())
        taken.add(found)
        return found

    def _work(self, firsts: list[Settings], runs: list[Settings]) -> None:
        """Do the jobs, several at a time, with shared stages 1 first."""
        taken: set[Path] = set()
        running: dict[_Job, ForkServerProcess] = {}
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
                            raise FederationError(
                                f"{self._firsts}: scans have changed during a stage 1; run this again"
                            )
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

    def _next(self, firsts: list[Settings], runs: list[Settings], taken: set[Path]) -> _Job | None:
        """Take the next job that can begin: a stage 1, or a run whose stage 1 is finished or not shared."""
        if firsts:
            config = firsts.pop(0)
            return _Job(config, self._scans[config], self._folder(self._firsts, config, taken), only_first=True)
        for config in runs:
            shared = begins_with_first_stage(config)
            first = self._find(self._firsts, config.of_first_stage()) if shared else None
            if first is not None or not shared:
                runs.remove(config)
                return _Job(config, self._scans[config], self._folder(self._runs, config, taken), first)
        return None

    def _start(self, job: _Job) -> ForkServerProcess:
        context = multiprocessing.get_context("forkserver")
        # runs are forked from one process that has already imported torch and Flower
        context.set_forkserver_preload([__name__])
        process = context.Process(target=_run, args=(job, self._data, self._cache))
        with _alone_in_main():  # the user's script must not run again in the job's process
            process.start()
        return process

    def _end(self, job: _Job, process: ForkServerProcess) -> list[str]:
        """Rename the folder of a finished run, or return what went wrong."""
        partial = _partial(job.folder)
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


@contextlib.contextmanager
def _alone_in_main() -> Iterator[None]:
    """Let a new process import only its function, not the program's main module."""
    main = sys.modules["__main__"]
    kept: dict[str, Any] = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
    main.__spec__ = None
    main.__dict__.pop("__file__", None)
    try:
        yield
    finally:
        vars(main).update(kept)


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{_PARTIAL}")


def _status(job: _Job) -> dict[str, Any]:
    """Read a run's progress from its folder."""
    folder = _partial(job.folder)
    with contextlib.suppress(OSError, ValueError):
        site, about = (folder / _STATUS).read_text(encoding="utf-8").split("\n")
        shown: dict[str, Any] = {"description": f"{job.folder.name}: {about}", "total": None}
        file = folder / "hospitals" / site / PROGRESS_FILE
        if site and file.stat().st_mtime >= (folder / _STATUS).stat().st_mtime:
            state = json.loads(file.read_text())
            shown |= {"completed": state["step"], "total": state["steps"]}
        return shown
    return {}


def _kill(process: ForkServerProcess) -> None:
    """Kill a run's process and everything that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.kill()
    process.join()


class _StatusFile(RunEvents):
    """A listener that writes a run's state to a file for the pool's process: the working site, and a line."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def _say(self, site: str, about: str) -> None:
        partial = self._file.with_suffix(".partial")
        partial.write_text(f"{site}\n{about}", encoding="utf-8")
        partial.replace(self._file)

    def waiting(self, sites: Sequence[str], timeout_s: float) -> None:
        self._say("", f"waiting for {', '.join(sites)}" if sites else "about to train")

    def preparing(self, sites: Sequence[str], connected: int) -> None:
        self._say("", f"waiting for {', '.join(sites)}, which prepare{'s' if len(sites) == 1 else ''} cases")

    def stage_started(self, stage: int, stages: int, name: str, participants: Sequence[str]) -> None:
        self._say(participants[0], f"stage {stage}/{stages} · {name}")

    def consolidation_started(self, stage: int, sites: Sequence[str]) -> None:
        self._say("", f"consolidating stage {stage}")

    def evaluation_started(self, stage: int, sites: Sequence[str]) -> None:
        self._say("", f"scoring after stage {stage}" if stage else "scoring the untrained student")

    def unknown_origin_started(self) -> None:
        self._say("", "scoring scans of unknown origin")


def _end_with_parent() -> None:
    """Wait until the parent process has ended for any reason; then kill this process group, including Ray."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)


def _run(job: _Job, data: str, cache: Path) -> None:
    """Do one run in its own process and process group; leave its error, if any, in the folder.

    The process ends with its parent, and keeps the run's folder until then.
    """
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder, config = _partial(job.folder), job.config
    folder.mkdir(exist_ok=True)
    with (folder / _OUTPUT).open("a") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    (folder / _ERROR).unlink(missing_ok=True)  # from an earlier try
    try:
        run = RunDirectory.of_comparison(folder, config, job.scans)
        hospitals = tuple(open_hospital(site, config, cache) for site in config.sites)
        run_simulation(
            Federation(config, hospitals, (), data=data),
            run,
            cache,
            _StatusFile(folder / _STATUS),
            ray_cpus=int(config.machine.cpus_per_site),
            first_stage=job.first_stage,
            only_first=job.only_first,
        )
    except (FedSerDiffError, OSError) as error:
        folder.mkdir(exist_ok=True)  # a run that never began has removed the folder
        text = os_error_text(error) if isinstance(error, OSError) else str(error)
        (folder / _ERROR).write_text(readable(text), encoding="utf-8")
        sys.exit(1)

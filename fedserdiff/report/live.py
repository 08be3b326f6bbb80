"""The live view of a run in a terminal."""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.report.console import Bars
from fedserdiff.report.curves import Point
from fedserdiff.report.events import RunEvents
from fedserdiff.report.retention import alarms

_POLL_S = 0.3
_PREPARING = ("prepares its cases", "prepare their cases")


class LiveView(RunEvents):
    """A progress line for the current work, and a printed line for each finished round and stage.

    Parameters
    ----------
    console : Console
        Console to write to.
    progress_files : Path
        Parent folder of the hospitals' folders. In a simulation, progress files in it are read step by step.
    """

    def __init__(self, console: Console, progress_files: Path) -> None:
        self._console = console
        self._folder = progress_files
        self._progress = Bars(
            console,
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._task = self._progress.add_task("starting Flower and Ray", total=None)
        self._title = ""
        self._round = ""
        self._watched: tuple[str, ...] = ()
        self._since = time.time()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "LiveView":
        self._progress.start()
        self._watcher.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._watcher.join()
        self._progress.stop()

    def waiting(self, sites: Sequence[str], timeout_s: float) -> None:
        self._console.print(f"waiting for {', '.join(sites)} (up to {timeout_s:.0f} s)")

    def preparing(self, sites: Sequence[str], connected: int) -> None:
        who = "it is" if len(sites) == 1 else f"{connected} of them {'is' if connected == 1 else 'are'}"
        self._console.print(f"waiting for {', '.join(sites)}: {who} connected and {_PREPARING[connected > 1]}")

    def site_turned_away(self, who: str, why: str) -> None:
        self._console.print(f"  [yellow]turned away:[/yellow] {escape(who)} {escape(why)}")

    def sent_again(self, site: str, why: str) -> None:
        self._console.print(f"  [yellow]{site} {escape(why)}:[/yellow] the message is sent again")

    def went_on(self, position: str, damaged: str, moved: str) -> None:
        if damaged:
            self._console.print(f"[yellow]{escape(damaged)}:[/yellow] the state before it is used", soft_wrap=True)
        elsewhere = f", {moved}: last digits differ from a run that stayed on one device" if moved else ""
        self._console.print(f"[bold]resuming[/bold] after {position}{elsewhere}")

    def sites_left(self, stage: int, sites: Sequence[str]) -> None:
        self._console.print(f"{', '.join(sites)} left before stage {stage}")

    def stage_started(self, stage: int, stages: int, name: str, participants: Sequence[str]) -> None:
        self._title = f"stage {stage}/{stages} · {name}"
        self._console.print(f"[bold]{self._title}[/bold]: training at {', '.join(participants)}")
        self._watched = tuple(participants)

    def round_started(self, server_round: int, rounds: int) -> None:
        self._round = f"round {server_round}/{rounds}"
        self._show(f"{self._title} · {self._round}")

    def round_finished(self, losses: Mapping[str, float]) -> None:
        terms = " · ".join(f"{name} {value:.3f}" for name, value in losses.items())
        self._console.print(f"  {self._round}: mean loss {terms}")

    def stage_validated(self, stage: int, curves: Mapping[str, Sequence[Point]]) -> None:
        for site, points in curves.items():
            dice = [100 * mean_over_regions(point.values, "refined", "dice") for point in points]
            best = max(range(len(dice)), key=dice.__getitem__)
            self._console.print(
                f"  validated at {site}: Dice % {dice[-1]:.1f} at step {points[-1].step}, best {dice[best]:.1f} at "
                f"step {points[best].step}"
            )

    def sites_failed(self, what: str) -> None:
        self._console.print(f"  [yellow]continued without:[/yellow] {what}")

    def lesions_forgotten(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for text in alarms(rows):
            self._console.print(f"  [yellow]alarm:[/yellow] {escape(text)}", highlight=False, soft_wrap=True)

    def consolidation_started(self, stage: int, sites: Sequence[str]) -> None:
        self._watched = ()
        self._show(f"stage {stage}: {', '.join(sites)} hand over what the method keeps")

    def noted(self, text: str) -> None:
        self._console.print(f"  [yellow]note:[/yellow] {escape(text)}", highlight=False, soft_wrap=True)

    def evaluation_started(self, stage: int, sites: Sequence[str]) -> None:
        what = "the untrained student" if stage == 0 else f"after stage {stage}"
        self._watched = ()
        self._show(f"scoring {what} at {', '.join(sites)}")

    def stage_evaluated(self, stage: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        cells = [
            f"{site} {100 * mean_over_regions(s, 'refined', 'dice'):.1f}"
            f" ({mean_over_regions(s, 'refined', 'hd95'):.1f} mm)"
            for site, s in scores.items()
        ]
        self._console.print(f"  R[{stage}] Dice % (HD95): " + " · ".join(cells))

    def unknown_origin_started(self) -> None:
        self._watched = ()
        self._show("scoring scans of unknown origin")

    def _show(self, description: str) -> None:
        self._since = time.time()
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(description, total=None)

    def _watch(self) -> None:
        """Read the progress of the training sites from their folders."""
        while not self._done.wait(_POLL_S):
            for site in self._watched:
                file = self._folder / site / "progress.json"
                try:
                    if file.stat().st_mtime < self._since:
                        continue
                    state = json.loads(file.read_text())
                except (OSError, ValueError):
                    continue
                terms = " ".join(f"{name} {value:.2f}" for name, value in state["terms"].items())
                self._progress.update(
                    self._task,
                    completed=state["step"],
                    total=state["steps"],
                    description=f"{self._title} · {self._round} · {terms}",
                )

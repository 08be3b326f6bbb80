"""The stream: hospitals arrive one after another, and after each the student is scored."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp import Grid

from fedserdiff import wire
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.privacy.gaussian import spent
from fedserdiff.report.curves import CURVES_FILE, Point, read_curves
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Settings
from strategies.checkpoint import Checkpoint, Position, save_checkpoint
from strategies.evaluation_plan import plan_evaluation
from strategies.first_stage import FirstStage
from strategies.overlap import SharedScans
from strategies.results import Results
from strategies.retrying_grid import RetryingGrid
from strategies.roster import Roster
from strategies.run_directory import RunDirectory
from strategies.scoring import Scoring
from strategies.stage_runner import StageRunner
from strategies.stream import ArrivalStream, Stage, departures_of


def run_stream(
    grid: Grid,
    config: Settings,
    run: RunDirectory,
    events: RunEvents,
    cases: Mapping[str, Mapping[str, int]] | None = None,
    first_stage: FirstStage | None = None,
    only_first: bool = False,
    keys: Mapping[str, bytes] | None = None,
    hospitals: Path | None = None,
) -> Results:
    """Run every stage and return the results, which are written to the run directory after each round.

    A stage begins when its participants are present; sites of later stages may come at any time. If the run directory
    has a checkpoint, the run resumes after the round, scoring or stage at which it was written.

    Parameters
    ----------
    grid : Grid
        Flower's grid to the nodes.
    config : Settings
        Settings with the sites in order of arrival.
    run : RunDirectory
        Directory for the results.
    events : RunEvents
        Listener for all events.
    cases : mapping, optional
        Exact case counts by site, which a simulation knows; otherwise the rounded counts from the sites are used.
    first_stage : FirstStage, optional
        Stage 1 of another run, to continue from.
    only_first : bool
        Whether to end after stage 1, so that other runs can continue from it.
    keys : mapping, optional
        As in `Roster`: the authenticated key of each site's node.
    hospitals : Path, optional
        In a simulation, the parent folder of the hospitals' folders. Their curves are read there; no message has them.

    Raises
    ------
    FederationError
        If a site does not appear, fails, or does not answer in time.
    StorageError
        If the run directory cannot be written.
    """
    parts = _Run(grid, config, run, events, cases, keys, hospitals)
    parts.go_on()
    parts.run(first_stage, only_first)
    return parts.results


class _Run:
    """The connected parts of one run."""

    def __init__(
        self,
        grid: Grid,
        config: Settings,
        run: RunDirectory,
        events: RunEvents,
        cases: Mapping[str, Mapping[str, int]] | None,
        keys: Mapping[str, bytes] | None,
        hospitals: Path | None,
    ) -> None:
        self._config, self._directory, self._events, self._cases = config, run, events, cases
        self._hospitals = hospitals
        self._sites = [site.name for site in config.sites]
        self._runner = StageRunner(config, events)
        self._stream = self._runner.stream
        self._grid = RetryingGrid(grid, config.machine.retries, self._told_again)
        self._scans = SharedScans(config)
        prepared = cases is not None
        self._roster = Roster(self._grid, config, events, keys, self._count_introduction, self._scans, prepared)
        self._runner.outbox.left_out = self._scans.record_for
        self.results = Results(
            config.method.name,
            config.seed,
            self._sites,
            self._stream.deployed(self._sites),
            cases or {},
            plan_evaluation(config, self._stream.stages(self._sites)),
            config.data.regions,
            config.scoring.metrics,
            self._stream.arrivals(self._sites),
        )
        self.results.departures = departures_of(self._stream.stages(self._sites))
        self.results.overlap_allowed = config.data.allow_overlap
        self.results.differential_privacy = spent(config)
        self.results.scored = config.scoring.patients
        self._scoring = Scoring(self._grid, self._runner, self.results)
        self._arrays = self._untrained = wire.weights_to_record(new_student(config))
        self._at = Position()

    def go_on(self) -> None:
        """Resume from the run directory's checkpoint, if there is one."""
        before = Checkpoint.load(self._directory, self._config)
        if before is None:
            return
        before.restore(self._runner, self.results, self._scoring, self._scans)
        self._arrays, self._at = before.arrays, before.position
        moved = before.moved_to(self._config)
        self._events.went_on(str(self._at), before.damaged, moved)
        if self._at.stage <= len(self._stream.stages(self._sites)):
            self.results.interruptions.append(f"after {self._at}{moved and f', {moved}'}")
            self._save(self._at)  # the interruption is recorded even if the run fails later

    def run(self, first_stage: FirstStage | None, only_first: bool) -> None:
        """Run the remaining stages, and write state and results after each step."""
        results = self.results
        plans = self._stream.stages(self._sites)
        if not results.stages:
            results.stages.append("untrained")
            if first_stage is None:
                self._scoring.add(self._untrained)
        with _timed(results, "discovery"):
            self._wait_for(plans[min(self._at.stage, len(plans)) - 1].participants)
        for stage in range(self._at.stage, (1 if only_first else len(plans)) + 1):
            self._run_stage(stage, plans, first_stage, only_first)
        self._roster.wait_for([site for site in self._sites if site not in plans[-1].away])
        self._catch_up()
        self._scoring.see_that_all_is_scored()
        self._save(self._at)

    def _run_stage(self, stage: int, plans: Sequence[Stage], first_stage: FirstStage | None, only_first: bool) -> None:
        plan, runner, results = plans[stage - 1], self._runner, self.results
        there = self._wait_for(plan.participants)
        self._catch_up()
        if len(results.stages) == stage:  # not if a run resumes within the stage
            results.stages.append(plan.name)
        if plan.leaving:
            self._events.sites_left(stage, plan.leaving)
        runner.begin_stage(stage, plan, there)
        if stage == 1 and first_stage is not None:
            self._arrays = first_stage.arrays
            _go_on_from(first_stage, runner, results)
        elif not self._at.scored:
            self._train(stage, len(plans), plan)
        if stage < len(plans) and not only_first:
            with _timed(results, f"consolidation {stage}"):
                results.absences += runner.consolidate(self._grid, self._arrays)
                results.notes += runner.notes
        self._stream.end_stage(self._arrays)
        _save_weights(self._directory, self._config, self._stream, self._arrays)
        self._save(Position(stage + 1))

    def _train(self, stage: int, stages: int, plan: Stage) -> None:
        """Do the remaining rounds of a stage, and score the result."""
        results, config, aggregator = self.results, self._config, self._runner.aggregator
        self._events.stage_started(stage, stages, plan.name, plan.participants)
        if self._at.rounds == 0:
            self._arrays = self._stream.initial(self._untrained, self._arrays)
            aggregator.begin_stage(self._arrays, self._kept_share(stage, plan))
        for server_round in range(self._at.rounds + 1, config.rounds + 1):
            with _timed(results, f"stage {stage}"):
                self._arrays, losses, absences = self._runner.run_round(self._grid, self._arrays, server_round)
            if server_round == config.rounds:
                self._arrays = aggregator.end_stage(self._arrays)
            results.losses[stage - 1 :] = [losses]
            results.absences += absences
            results.retention += self._runner.retention
            self._save(Position(stage, server_round))
        if validated := self._curves(stage):
            self._events.stage_validated(stage, validated)
        self._scoring.add(self._arrays)
        self._at = Position(stage, config.rounds, scored=True)
        if not self._catch_up():
            self._save(self._at)

    def _kept_share(self, stage: int, plan: Stage) -> float:
        """Return the share of its initial student that a stage keeps; 0 for an untrained one."""
        before = {site for earlier in self._stream.stages(self._sites)[: stage - 1] for site in earlier.participants}
        if self._arrays is self._untrained or not before - {*plan.participants}:
            return 0.0
        counted = {**self.results.cases, **(self._cases or self._roster.cases)}  # sites that have left count too
        past, own = (
            sum(counted[site]["training"] for site in sites if site in counted)
            for sites in (before - {*plan.participants}, plan.participants)
        )
        return min(self._config.inertia, past / max(past + own, 1))

    def _curves(self, stage: int | None = None) -> dict[str, list[Point]]:
        """Return the curves of a stage, or of all stages, by site, as kept by hospitals on this machine."""
        if self._hospitals is None or not self._config.training.validate_every:
            return {}
        kept = {site: read_curves(self._hospitals / site / CURVES_FILE) for site in self._sites}
        wanted = {site: [one for one in points if stage in (None, one.stage)] for site, points in kept.items()}
        return {site: points for site, points in wanted.items() if points}

    def _wait_for(self, sites: Sequence[str]) -> dict[str, int]:
        """Wait for sites, and for the settlement of the scans that earlier sites brought; return their nodes."""
        self._roster.wait_for(self._scans.awaited(sites))
        return self._roster.wait_for(sites)

    def _catch_up(self) -> bool:
        """Let every present site score what it still has to score; return whether there was anything.

        A site scores only after all earlier sites have come once, because its cases may also be an earlier site's.
        """
        there = self._roster.meet()
        ready = [site for site in self._sites if site in there and self._scans.settled(site)]
        scored = self._scoring.catch_up({site: there[site] for site in ready})
        if scored:
            self._save(self._at)
        return scored

    def _save(self, position: Position) -> None:
        """Write everything needed to resume from here, then the results so far."""
        self._at = position
        told = self._cases or self._roster.cases
        self.results.cases |= {site: dict(told[site]) for site in self._sites if site in told}
        self.results.bytes_out = self._runner.inbox.bytes_out
        self.results.bytes_in = self._runner.outbox.bytes_in
        self.results.curves = [point.row(site) for site, points in self._curves().items() for point in points]
        self.results.left_out = {site: count for site, count in self._scans.counts().items() if count}
        save_checkpoint(self._directory, position, self._arrays, self._runner, self.results, self._scoring, self._scans)
        self._directory.write_results(self.results)

    def _told_again(self, node: int, why: str) -> None:
        self._events.sent_again(self._roster.name(node), why)

    def _count_introduction(self, site: str, content: RecordDict) -> None:
        inbox = self._runner.inbox
        if wire.SITE not in inbox.bytes_out[site]:  # a resumed run has already counted it
            inbox.count(site, content)


@contextmanager
def _timed(results: Results, name: str) -> Iterator[None]:
    """Add the time spent in the context to the seconds of `name`; a resumed run adds to the earlier time."""
    started = time.monotonic()
    yield
    results.seconds[name] = results.seconds.get(name, 0.0) + time.monotonic() - started


def _go_on_from(first: FirstStage, runner: StageRunner, results: Results) -> None:
    """Use another run's stage 1 as if it were this run's, including its costs."""
    results.rows.extend({site: dict(scores) for site, scores in row.items()} for row in first.rows)
    results.losses.append(dict(first.losses))
    results.seconds.update(first.seconds)
    inbox, outbox = runner.inbox, runner.outbox
    for ledger, entries in ((inbox.bytes_out, first.bytes_out), (outbox.bytes_in, first.bytes_in)):
        ledger.clear()  # the other run has already counted discovery
        for site, kinds in entries.items():
            ledger[site].update(kinds)


def _save_weights(run: RunDirectory, config: Settings, stream: ArrivalStream, arrays: ArrayRecord) -> None:
    """Write a stage's student, as the last one and under its number, and the teacher, if there is one."""
    student = Student(config)
    wire.load_weights(student, arrays)
    for name in ("student", f"student-of-stage-{stream.stage}"):
        run.write_weights(name, student.state_dict())
    deployed = stream.deployed([site.name for site in config.sites])
    if len(set(deployed)) > 1:  # sites keep students of their own
        for site, stage in zip(config.sites, deployed, strict=True):
            if stage == stream.stage:
                run.write_weights(f"student-{site.name}", student.state_dict())
    if stream.teacher is not None:
        wire.load_weights(student, stream.teacher)
        run.write_weights("teacher", student.state_dict())

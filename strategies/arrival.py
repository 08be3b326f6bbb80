"""The stream: hospitals arrive one after another, and after each the student is scored everywhere."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp import Grid

from fedserdiff import wire
from fedserdiff.config import ExperimentConfig
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.report.events import RunEvents
from strategies.base import ArrivalStrategy, Stage, make_strategy
from strategies.checkpoint import Checkpoint, save_checkpoint
from strategies.first_stage import FirstStage
from strategies.patient_grid import PatientGrid
from strategies.results import Results
from strategies.roster import Roster
from strategies.run_directory import RunDirectory
from strategies.scoring import Scoring


def run_stream(
    grid: Grid,
    config: ExperimentConfig,
    run: RunDirectory,
    events: RunEvents,
    cases: Mapping[str, Mapping[str, int]] | None = None,
    first_stage: FirstStage | None = None,
    only_first: bool = False,
    keys: Mapping[str, bytes] | None = None,
) -> Results:
    """Run every stage and return the results, which stand in the run directory after each stage.

    A stage begins when its participants are there; sites that are to come later may come at any time. A run whose
    directory holds a checkpoint goes on after the stage that it was written at.

    Parameters
    ----------
    grid : Grid
        Flower's way to the nodes.
    config : ExperimentConfig
        With the sites in order of arrival.
    run : RunDirectory
        Where results go.
    events : RunEvents
        Told of everything.
    cases : mapping, optional
        Exact case counts by site, where a simulation knows them; otherwise the rounded ones that sites told.
    first_stage : FirstStage, optional
        Stage 1 of another run, to go on from.
    only_first : bool
        Whether to end after stage 1, so that others can go on from it.
    keys : mapping, optional
        As `Roster`'s: the authenticated key of each site's node.

    Raises
    ------
    FederationError
        Where a site does not appear, fails, or does not answer in time.
    """
    stream = _Stream(grid, config, run, events, cases, keys)
    stream.go_on()
    stream.run(first_stage, only_first)
    return stream.results


class _Stream:
    """The parts of one run, joined."""

    def __init__(
        self,
        grid: Grid,
        config: ExperimentConfig,
        run: RunDirectory,
        events: RunEvents,
        cases: Mapping[str, Mapping[str, int]] | None,
        keys: Mapping[str, bytes] | None,
    ) -> None:
        self._config, self._directory, self._events, self._cases = config, run, events, cases
        self._sites = [site.name for site in config.sites]
        self._strategy = make_strategy(config, events)
        self._grid = PatientGrid(grid, lambda node: events.sent_again(self._roster.name(node)))
        self._roster = Roster(self._grid, config, events, keys, self._count_introduction)
        self.results = Results(
            config.method, config.seed, self._sites, self._strategy.deployed(self._sites), cases or {}
        )
        self._scoring = Scoring(self._grid, self._strategy, self.results)
        self._arrays = self._untrained = wire.weights_to_record(new_student(config))
        self._done = 0

    def go_on(self) -> None:
        """Begin where the run directory's checkpoint was written, if it holds one."""
        before = Checkpoint.load(self._directory, self._config)
        if before is not None:
            before.restore(self._strategy, self.results, self._scoring)
            self._arrays, self._done = before.arrays, before.stage
            self._events.went_on(self._done)

    def run(self, first_stage: FirstStage | None, only_first: bool) -> None:
        """Run the stages that are left, and write the results after each."""
        self._directory.write_config(self._config)
        results, strategy = self.results, self._strategy
        plans = strategy.stages(self._sites)
        if not results.rows:
            results.stages.append("untrained")
            if first_stage is None:
                self._scoring.add(self._untrained)
        with _timed(results, "discovery"):
            self._roster.wait_for(plans[min(self._done, len(plans) - 1)].participants)
        for stage, plan in enumerate(plans[:1] if only_first else plans, 1):
            if stage <= self._done:
                continue
            there = self._roster.wait_for(plan.participants)
            self._catch_up()
            results.stages.append(plan.name)
            strategy.begin_stage(stage, plan, there)
            if stage == 1 and first_stage is not None:
                self._arrays = first_stage.arrays
                _go_on_from(first_stage, strategy, results)
            else:
                self._train(stage, len(plans), plan)
            if stage < len(plans) and not only_first:
                with _timed(results, f"consolidation {stage}"):
                    strategy.consolidate(self._grid, self._arrays)
            strategy.end_stage(self._arrays)
            _save_weights(self._directory, self._config, strategy, self._arrays)
            self._done = stage
            self._write()
        self._roster.wait_for(self._sites)
        self._catch_up()
        self._write()

    def _train(self, stage: int, stages: int, plan: Stage) -> None:
        strategy, results, config = self._strategy, self.results, self._config
        self._events.stage_started(stage, stages, plan.name, plan.participants)
        with _timed(results, f"stage {stage}"):
            start = strategy.initial(self._untrained, self._arrays)
            result = strategy.start(self._grid, start, num_rounds=config.rounds, timeout=config.stage_timeout_s)
            self._arrays = result.arrays
        results.losses.append(_losses(result.train_metrics_clientapp[config.rounds]))
        self._scoring.add(self._arrays)
        self._catch_up()

    def _catch_up(self) -> None:
        """Let every site that is there score what it has not scored yet."""
        there = self._roster.meet()
        self._scoring.catch_up({site: there[site] for site in self._sites if site in there})

    def _write(self) -> None:
        told = self._cases or self._roster.cases
        self.results.cases |= {site: dict(told[site]) for site in self._sites if site in told}
        self.results.bytes_out, self.results.bytes_in = self._strategy.bytes_out, self._strategy.bytes_in
        save_checkpoint(self._directory, self._done, self._arrays, self._strategy, self.results, self._scoring)
        self._directory.write_results(self.results)

    def _count_introduction(self, site: str, content: RecordDict) -> None:
        self._strategy.count(self._strategy.bytes_out, site, content)


@contextmanager
def _timed(results: Results, name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    results.seconds[name] = time.monotonic() - started


def _go_on_from(first: FirstStage, strategy: ArrivalStrategy, results: Results) -> None:
    """Enter another run's stage 1 as if it had been this run's, its costs included."""
    results.rows.extend({site: dict(scores) for site, scores in row.items()} for row in first.rows)
    results.losses.append(dict(first.losses))
    results.seconds.update(first.seconds)
    for ledger, entries in ((strategy.bytes_out, first.bytes_out), (strategy.bytes_in, first.bytes_in)):
        ledger.clear()  # the other run has counted discovery already
        for site, kinds in entries.items():
            ledger[site].update(kinds)


def _losses(metrics: Mapping[str, object]) -> dict[str, float]:
    """Return the loss terms of a stage's last round."""
    return {k.removeprefix("loss-"): float(str(v)) for k, v in metrics.items() if k.startswith("loss-")}


def _save_weights(run: RunDirectory, config: ExperimentConfig, strategy: ArrivalStrategy, arrays: ArrayRecord) -> None:
    """Write a stage's student, and the teacher, where there is one."""
    student = Student(config)
    wire.load_weights(student, arrays)
    run.write_weights("student", student.state_dict())
    deployed = strategy.deployed([site.name for site in config.sites])
    if len(set(deployed)) > 1:  # sites keep students of their own
        for site, stage in zip(config.sites, deployed, strict=True):
            if stage == strategy.stage:
                run.write_weights(f"student-{site.name}", student.state_dict())
    if strategy.teacher is not None:
        wire.load_weights(student, strategy.teacher)
        run.write_weights("teacher", student.state_dict())

"""The stream: hospitals arrive one after another, and after each the student is scored everywhere."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedserdiff import wire
from fedserdiff.config import ExperimentConfig
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.errors import FederationError
from fedserdiff.report.events import RunEvents
from strategies.base import ArrivalStrategy, describe_faults, make_strategy
from strategies.first_stage import FirstStage
from strategies.results import Results, Scores
from strategies.roster import Roster
from strategies.run_directory import RunDirectory


def run_stream(
    grid: Grid,
    config: ExperimentConfig,
    run: RunDirectory,
    events: RunEvents,
    cases: Mapping[str, Mapping[str, int]] | None = None,
    first_stage: FirstStage | None = None,
    only_first: bool = False,
) -> Results:
    """Run every stage and return the results, which stand in the run directory after each stage.

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

    Raises
    ------
    FederationError
        Where a site does not appear, fails, or does not answer in time.
    """
    run.write_config(config)
    sites = [site.name for site in config.sites]
    strategy = make_strategy(config, events)
    roster = Roster(grid, config, events)
    untrained = wire.weights_to_record(new_student(config))
    started = time.monotonic()
    nodes = roster.wait_for(sites)
    for site in sites:
        strategy.count(strategy.bytes_out, site, roster.introductions[site])
    results = Results(config.method, config.seed, sites, strategy.deployed(sites), cases or roster.cases)
    results.seconds["discovery"] = time.monotonic() - started
    plans = strategy.stages(sites)

    results.stages.append("untrained")
    if first_stage is None:
        with _timed(results, "evaluation 0"):
            results.rows.append(_evaluate_everywhere(grid, strategy, nodes, untrained, 0))
    arrays = untrained
    for stage, plan in enumerate(plans[:1] if only_first else plans, 1):
        results.stages.append(plan.name)
        strategy.begin_stage(stage, plan, roster.wait_for(plan.participants))
        if stage == 1 and first_stage is not None:
            arrays = first_stage.arrays
            _go_on_from(first_stage, strategy, results)
        else:
            events.stage_started(stage, len(plans), plan.name, plan.participants)
            with _timed(results, f"stage {stage}"):
                start = strategy.initial(untrained, arrays)
                result = strategy.start(grid, start, num_rounds=config.rounds, timeout=config.stage_timeout_s)
                arrays = result.arrays
            results.losses.append(_losses(result.train_metrics_clientapp[config.rounds]))
            with _timed(results, f"evaluation {stage}"):
                results.rows.append(_evaluate_everywhere(grid, strategy, nodes, arrays, stage))
        if stage < len(plans) and not only_first:
            with _timed(results, f"consolidation {stage}"):
                strategy.consolidate(grid, arrays)
        strategy.end_stage(arrays)
        _save_weights(run, config, strategy, arrays)
        results.bytes_out, results.bytes_in = strategy.bytes_out, strategy.bytes_in
        run.write_results(results)
    return results


@contextmanager
def _timed(results: Results, name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    results.seconds[name] = time.monotonic() - started


def _go_on_from(first: FirstStage, strategy: ArrivalStrategy, results: Results) -> None:
    """Enter another run's stage 1 as if it had been this run's, its costs included."""
    results.rows.extend(first.rows)
    results.losses.append(dict(first.losses))
    results.seconds.update(first.seconds)
    for ledger, entries in ((strategy.bytes_out, first.bytes_out), (strategy.bytes_in, first.bytes_in)):
        ledger.clear()  # the other run has counted discovery already
        for site, kinds in entries.items():
            ledger[site].update(kinds)


def _losses(metrics: Mapping[str, object]) -> dict[str, float]:
    """Return the loss terms of a stage's last round."""
    return {k.removeprefix("loss-"): float(str(v)) for k, v in metrics.items() if k.startswith("loss-")}


def _evaluate_everywhere(
    grid: Grid, strategy: ArrivalStrategy, nodes: Mapping[str, int], arrays: ArrayRecord, stage: int
) -> Scores:
    """Measure row `stage` of R on every site's test cases."""
    config = strategy.config
    strategy.events.evaluation_started(stage, list(nodes))
    content = RecordDict({wire.ARRAYS: arrays, wire.CONFIG: ConfigRecord({"stage": stage})})
    messages = [Message(content, node, MessageType.EVALUATE, ttl=config.stage_timeout_s) for node in nodes.values()]
    replies = list(grid.send_and_receive(messages, timeout=config.stage_timeout_s))
    by_node = {node: site for site, node in nodes.items()}
    if len(replies) < len(nodes) or any(reply.has_error() for reply in replies):
        raise FederationError(f"evaluation after stage {stage}: {describe_faults(replies, by_node)}")
    scores: dict[str, dict[str, float]] = {}
    for reply in replies:
        site = by_node[reply.metadata.src_node_id]
        strategy.count(strategy.bytes_in, site, content)
        strategy.count(strategy.bytes_out, site, reply.content)
        metrics = reply.content.metric_records[wire.METRICS]
        scores[site] = {k: float(str(v)) for k, v in metrics.items() if k != wire.WEIGHT}
    row = {site: scores[site] for site in nodes}
    strategy.events.stage_evaluated(stage, row)
    return row


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

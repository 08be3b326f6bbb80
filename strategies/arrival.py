"""The stream: hospitals arrive one after another, and after each the student is scored everywhere."""

import pkgutil
import time
from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedserdiff import wire
from fedserdiff.config import ExperimentConfig
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.errors import FederationError
from fedserdiff.methods import get_method
from fedserdiff.report.events import RunEvents
from strategies.base import ArrivalStrategy, describe_faults
from strategies.results import Results, Scores
from strategies.roster import Roster
from strategies.run_directory import RunDirectory


def run_stream(
    grid: Grid,
    config: ExperimentConfig,
    run: RunDirectory,
    events: RunEvents,
    cases: Mapping[str, Mapping[str, int]] | None = None,
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

    Raises
    ------
    FederationError
        Where a site does not appear, fails, or does not answer in time.
    """
    run.write_config(config)
    sites = [site.name for site in config.sites]
    strategy: ArrivalStrategy = pkgutil.resolve_name(get_method(config.method).strategy)(config, events)
    roster = Roster(grid, config, events)
    arrays = wire.weights_to_record(new_student(config))
    started = time.monotonic()
    nodes = roster.wait_for(sites)
    for site in sites:
        strategy.count(strategy.bytes_out, site, roster.introductions[site])
    results = Results(config.method, config.seed, sites, cases or roster.cases)
    results.seconds["discovery"] = time.monotonic() - started
    plans = strategy.stages(sites)

    row_started = time.monotonic()
    results.stages.append("untrained")
    results.rows.append(_evaluate_everywhere(grid, strategy, nodes, arrays, 0))
    results.seconds["evaluation 0"] = time.monotonic() - row_started
    for stage, plan in enumerate(plans, 1):
        stage_started = time.monotonic()
        events.stage_started(stage, len(plans), plan.name, plan.participants)
        strategy.begin_stage(stage, plan, roster.wait_for(plan.participants))
        result = strategy.start(grid, arrays, num_rounds=config.rounds, timeout=config.stage_timeout_s)
        arrays = result.arrays
        strategy.end_stage(arrays)
        _save_weights(run, config, strategy, arrays)
        results.losses.append(_losses(result.train_metrics_clientapp[config.rounds]))
        results.seconds[f"stage {stage}"] = time.monotonic() - stage_started
        row_started = time.monotonic()
        results.stages.append(plan.name)
        results.rows.append(_evaluate_everywhere(grid, strategy, nodes, arrays, stage))
        results.seconds[f"evaluation {stage}"] = time.monotonic() - row_started
        results.bytes_out, results.bytes_in = strategy.bytes_out, strategy.bytes_in
        run.write_results(results)
    return results


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
    if strategy.teacher is not None:
        wire.load_weights(student, strategy.teacher)
        run.write_weights("teacher", student.state_dict())

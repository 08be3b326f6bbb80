"""What a coordinator that ended goes on with: all of it, or a clear refusal."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from superlink import SuperLink
from traffic import handed_over

from fedserdiff import wire
from fedserdiff.config import ExperimentConfig, Site, make_config
from fedserdiff.errors import ConfigError
from fedserdiff.report.events import RunEvents
from strategies.base import ArrivalStrategy, Stage, make_strategy
from strategies.checkpoint import FILE, Checkpoint, save_checkpoint
from strategies.results import Results
from strategies.run_directory import RunDirectory
from strategies.scoring import Scoring

SITES = ("north", "east", "west")
NODES = {"north": 11, "east": 12, "west": 13}
STANDING = 2


def smoke(method: str = "ser-diff", **changes: Any) -> ExperimentConfig:
    sites = tuple(Site(name, "brats2021", f"/scans/{name}") for name in SITES)
    return make_config("smoke", **{"method": method, "sites": sites, **changes})


def student(number: int) -> ArrayRecord:
    """A student of 50 weights, none of which is a short decimal."""
    return ArrayRecord({"weights": Array(np.random.default_rng(number).normal(size=50).astype(np.float32))})


def row(*sites: str) -> dict[str, dict[str, float]]:
    names = [f"{m}.{k}.{r}" for m in ("coarse", "refined") for k in ("dice", "hd95") for r in ("tc", "wt", "et")]
    return {site: {name: (n + len(site)) / 30 for n, name in enumerate(names)} for site in sites}


class Coordinator:
    """The parts of a run that a checkpoint holds."""

    def __init__(self, config: ExperimentConfig, link: SuperLink) -> None:
        self.strategy = make_strategy(config, RunEvents())
        self.results = Results(config.method, config.seed, SITES, [3, 3, 3], {})
        self.scoring = Scoring(link.grid, self.strategy, self.results)

    def save(self, run: RunDirectory, stage: int = 2) -> None:
        save_checkpoint(run, stage, student(STANDING), self.strategy, self.results, self.scoring)


def of_two_stages(config: ExperimentConfig, link: SuperLink) -> Coordinator:
    """A coordinator after two stages: north alone, then east alone or both; west has not come yet."""
    lived = Coordinator(config, link)
    for stage, plan in enumerate(lived.strategy.stages(SITES)[:2], 1):
        lived.strategy.begin_stage(stage, plan, {site: NODES[site] for site in plan.participants})
        for site in plan.participants if lived.strategy.consolidates() else ():
            lived.strategy.keep(site, handed_over(config, student(10 * stage + NODES[site]), samples=stage + 1))
        lived.strategy.end_stage(student(stage))
    lived.results.stages += ["untrained", "north", "east"]
    lived.results.rows += [row("north", "east"), row("north", "east", "west"), row("north", "east")]
    lived.results.losses += [{"segmentation": 1 / 3}, {"segmentation": 0.1 + 0.2, "distillation": 1e-17}]
    lived.results.seconds |= {"stage 1": 1 / 7, "evaluation 0": 2.5}
    lived.results.cases = {"north": {"training": 10, "test": 5}, "east": {"training": 15, "test": 5}}
    lived.scoring.students = {0: student(0), 2: student(2)}
    for site, size in (("north", 100), ("east", 200)):
        lived.strategy.bytes_out[site][wire.ARRAYS] += size
        lived.strategy.bytes_in[site][wire.TEACHER] += 3 * size
    return lived


def restored(config: ExperimentConfig, link: SuperLink, run: RunDirectory) -> tuple[Checkpoint, Coordinator]:
    """What another process makes of a run directory's checkpoint."""
    fresh = Coordinator(config, link)
    checkpoint = Checkpoint.load(run, config)
    assert checkpoint is not None
    checkpoint.restore(fresh.strategy, fresh.results, fresh.scoring)
    return checkpoint, fresh


def sent_to_west(strategy: ArrivalStrategy) -> dict[str, ArrayRecord]:
    """What the strategy adds to the student for a site that arrives in stage 3."""
    strategy.begin_stage(3, Stage("west", ("west",)), {"west": NODES["west"]})
    return strategy.records_for("west", 1)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.new(tmp_path / "run")


@pytest.mark.parametrize(
    ("method", "changes", "travels"),
    [
        ("ser-diff", {}, {wire.TEACHER, wire.ERROR_MAPS}),
        ("ser-diff", {"teacher": "latest", "participation": "cumulative"}, {wire.TEACHER, wire.ERROR_MAPS}),
        ("ser-diff", {"shared_error_maps": "none"}, {wire.TEACHER}),
        ("distill", {}, {wire.TEACHER}),
        ("image-replay", {"teacher": "latest"}, {wire.SYNTHETIC_IMAGES}),
        ("ewc", {}, {wire.TEACHER, wire.FISHER}),
        ("ewc", {"participation": "cumulative"}, {wire.TEACHER, wire.FISHER}),
        ("fine-tune", {}, set()),
        ("local", {}, set()),
    ],
)
def test_the_next_site_is_sent_what_it_would_have_been_sent_bit_for_bit(
    link: SuperLink, run: RunDirectory, method: str, changes: dict[str, Any], travels: set[str]
) -> None:
    config = smoke(method, **changes)
    lived = of_two_stages(config, link)
    lived.save(run)
    checkpoint, fresh = restored(config, link, run)
    assert checkpoint.stage == 2
    assert checkpoint.arrays == student(STANDING)
    expected = sent_to_west(lived.strategy)
    assert set(expected) == travels
    assert sent_to_west(fresh.strategy) == expected
    assert fresh.strategy.teacher_stage == lived.strategy.teacher_stage


@pytest.mark.parametrize(("method", "changes"), [("ewc", {}), ("image-replay", {"teacher": "latest"})])
def test_what_is_kept_after_going_on_is_added_to_what_was_kept_before(
    link: SuperLink, run: RunDirectory, method: str, changes: dict[str, Any]
) -> None:
    config = smoke(method, **changes)
    lived = of_two_stages(config, link)
    lived.save(run)
    _, fresh = restored(config, link, run)
    for strategy in (lived.strategy, fresh.strategy):
        before = sent_to_west(strategy)
        strategy.keep("west", handed_over(config, student(99), samples=4))
        assert sent_to_west(strategy) != before
    assert sent_to_west(fresh.strategy) == sent_to_west(lived.strategy)


def test_results_ledgers_and_students_that_a_late_site_has_to_score_come_back(
    link: SuperLink, run: RunDirectory
) -> None:
    lived = of_two_stages(smoke(), link)
    lived.save(run)
    _, fresh = restored(smoke(), link, run)
    for name in ("rows", "stages", "losses", "seconds", "cases"):
        assert getattr(fresh.results, name) == getattr(lived.results, name)
    assert fresh.scoring.students == {0: student(0), 2: student(2)}
    assert fresh.strategy.bytes_out == {"north": {wire.ARRAYS: 100}, "east": {wire.ARRAYS: 200}}
    assert fresh.strategy.bytes_in == {"north": {wire.TEACHER: 300}, "east": {wire.TEACHER: 600}}
    for coordinator in (lived, fresh):
        coordinator.strategy.count(coordinator.strategy.bytes_out, "west", handed_over(smoke(), student(1)))
        coordinator.results.bytes_out = coordinator.strategy.bytes_out
        coordinator.results.bytes_in = coordinator.strategy.bytes_in
    assert fresh.results.to_dict() == lived.results.to_dict()
    assert fresh.results.table() == lived.results.table()


def test_a_checkpoint_of_a_checkpoint_is_the_same(link: SuperLink, run: RunDirectory, tmp_path: Path) -> None:
    """A coordinator may end more than once."""
    config = smoke("ewc")
    of_two_stages(config, link).save(run)
    _, fresh = restored(config, link, run)
    again = RunDirectory.new(tmp_path / "again")
    fresh.save(again)
    _, third = restored(config, link, again)
    assert sent_to_west(third.strategy) == sent_to_west(fresh.strategy)
    assert third.scoring.students == fresh.scoring.students
    assert third.results.rows == fresh.results.rows


def test_where_no_stage_has_ended_there_is_nothing_to_go_on_with(run: RunDirectory) -> None:
    assert Checkpoint.load(run, smoke()) is None


@pytest.mark.parametrize("other", [{"method": "ewc"}, {"seed": 1}, {"sites": smoke().sites[:2]}], ids=list)
def test_a_checkpoint_of_another_experiment_is_refused(
    link: SuperLink, run: RunDirectory, other: dict[str, Any]
) -> None:
    of_two_stages(smoke(), link).save(run)
    with pytest.raises(ConfigError, match=r"checkpoint\.pt: belongs to another experiment, or to another version"):
        Checkpoint.load(run, smoke(**other))


def test_a_run_goes_on_with_other_paths_and_limits_than_it_began_with(link: SuperLink, run: RunDirectory) -> None:
    of_two_stages(smoke(), link).save(run)
    moved = tuple(Site(site.name, site.release, f"/elsewhere/{site.name}") for site in smoke().sites)
    assert Checkpoint.load(run, smoke(sites=moved, stage_timeout_s=5)) is not None


@pytest.mark.parametrize("damage", ["empty", "half", "text", "weights", "list"])
def test_a_file_that_is_no_checkpoint_is_refused_in_words(link: SuperLink, run: RunDirectory, damage: str) -> None:
    of_two_stages(smoke(), link).save(run)
    file = run.path / FILE
    whole = file.read_bytes()
    if damage in ("empty", "half", "text"):
        file.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "text": b"not a checkpoint\n"}[damage])
    else:
        torch.save({"weights": torch.zeros(3)} if damage == "weights" else [1, 2], file)
    with pytest.raises(ConfigError) as caught:
        Checkpoint.load(run, smoke())
    assert str(caught.value).startswith(f"{file}: cannot be read")
    assert str(caught.value).endswith("move its folder away to begin anew")


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes: writing more fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(link: SuperLink, run: RunDirectory) -> None:
    lived = of_two_stages(smoke(), link)
    lived.save(run, stage=1)
    lived.results.losses.append({"segmentation": 0.5})
    with disk_of(1000), pytest.raises(OSError, match="File too large"):
        lived.save(run, stage=2)
    checkpoint, fresh = restored(smoke(), link, run)
    assert checkpoint.stage == 1
    assert len(fresh.results.losses) == 2
    lived.save(run, stage=2)
    checkpoint, fresh = restored(smoke(), link, run)
    assert (checkpoint.stage, len(fresh.results.losses)) == (2, 3)
    assert [file.name for file in run.path.iterdir()] == [FILE]

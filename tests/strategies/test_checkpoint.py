"""A coordinator that ended resumes from its complete state, or refuses with a clear message."""

import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MessageType
from superlink import SuperLink
from traffic import answer, change, handed_over, honest, plain

from fedserdiff import origin, wire
from fedserdiff.errors import ConfigError, StorageError
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from strategies.checkpoint import Checkpoint, Position, save_checkpoint
from strategies.overlap import SharedScans
from strategies.results import Results
from strategies.run_directory import CHECKPOINTS, RunDirectory
from strategies.scoring import Scoring
from strategies.stage_runner import StageRunner
from strategies.stream import ArrivalStream, Stage

SITES = ("north", "east", "west")
NODES = {"north": 11, "east": 12, "west": 13}
STANDING = 2
AFTER_TWO = Position(3)
FILE, PREVIOUS = CHECKPOINTS


def smoke(method: str = "ser-diff", **changes: Any) -> Settings:
    sites = tuple(Site(name, "brats2021", f"/scans/{name}") for name in SITES)
    return make_settings("smoke", {"method": method, "sites": sites, **changes})


def student(number: int) -> ArrayRecord:
    """A student of 50 weights, none of which is a short decimal."""
    return ArrayRecord({"weights": Array(np.random.default_rng(number).normal(size=50).astype(np.float32))})


def row(*sites: str) -> dict[str, dict[str, float]]:
    names = [f"{m}.{k}.{r}" for m in ("coarse", "refined") for k in ("dice", "hd95") for r in ("tc", "wt", "et")]
    return {site: {name: (n + len(site)) / 30 for n, name in enumerate(names)} for site in sites}


class Lived:
    """The parts of a run that a checkpoint holds."""

    def __init__(self, config: Settings, link: SuperLink) -> None:
        self.runner = StageRunner(config, RunEvents())
        self.stream = self.runner.stream
        self.results = Results(config.method.name, config.seed, SITES, [3, 3, 3], {})
        self.scoring = Scoring(link.grid, self.runner, self.results)
        self.scans = SharedScans(config)

    def save(self, run: RunDirectory, position: Position = AFTER_TWO) -> None:
        save_checkpoint(run, position, student(STANDING), self.runner, self.results, self.scoring, self.scans)


def of_two_stages(config: Settings, link: SuperLink) -> Lived:
    """A coordinator after two stages: north alone, then east alone or both; west has not come yet."""
    lived = Lived(config, link)
    for stage, plan in enumerate(lived.stream.stages(SITES)[:2], 1):
        lived.runner.begin_stage(stage, plan, {site: NODES[site] for site in plan.participants})
        asked = lived.stream.asks_for()
        for site in plan.participants if asked else ():
            kept = handed_over(config, student(10 * stage + NODES[site]), stage + 1, asked)
            lived.stream.keep(site, plain(kept))
        lived.stream.end_stage(student(stage))
    lived.results.stages += ["untrained", "north", "east"]
    lived.results.rows += [row("north", "east"), row("north", "east", "west"), row("north", "east")]
    lived.results.losses += [{"segmentation": 1 / 3}, {"segmentation": 0.1 + 0.2, "distillation": 1e-17}]
    lived.results.seconds |= {"stage 1": 1 / 7, "evaluation 0": 2.5}
    lived.results.cases = {"north": {"training": 10, "test": 5}, "east": {"training": 15, "test": 5}}
    lived.results.interruptions = ["after stage 1, round 1"]
    lived.results.absences = [{"stage": 2, "round": 1, "site": "east", "why": "did not answer in time"}]
    told = {"stage": 2, "at": "east", "site": "north", "region": "et", "before": 0.8, "after": 0.5, "alarm": True}
    lived.results.retention = [told]
    lived.results.notes = ["north shares no moments of its lesions"]
    lived.scoring.students = {0: student(0), 2: student(2)}
    for site, size in (("north", 100), ("east", 200)):
        lived.runner.inbox.bytes_out[site][wire.ARRAYS] += size
        lived.runner.outbox.bytes_in[site][wire.TEACHER] += 3 * size
    return lived


def restored(config: Settings, link: SuperLink, run: RunDirectory) -> tuple[Checkpoint, Lived]:
    """What another process makes of a run directory's checkpoint."""
    fresh = Lived(config, link)
    checkpoint = Checkpoint.load(run, config)
    assert checkpoint is not None
    checkpoint.restore(fresh.runner, fresh.results, fresh.scoring, fresh.scans)
    return checkpoint, fresh


def sent_to_west(stream: ArrivalStream) -> dict[str, ArrayRecord]:
    """What the method adds to the student for a site that arrives in stage 3."""
    stream.begin_stage(3, Stage("west", ("west",)))
    return stream.records_for("west", 1)


def next_round(runner: StageRunner, sent: ArrayRecord, server_round: int) -> ArrayRecord:
    """The student of a round in which west's weights change, each round otherwise."""
    runner.server_round = server_round
    content = honest(MessageType.TRAIN, runner.config, sent)
    content[wire.ARRAYS] = change(sent, 0.01 * server_round)
    arrays, _, _ = runner.aggregate(sent, [answer(NODES["west"], MessageType.TRAIN, content)])
    return arrays


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.new(tmp_path / "run")


@pytest.mark.parametrize(
    ("method", "changes", "travels"),
    [
        ("ser-diff", {}, {"teacher-1", wire.ERROR_MAPS}),
        (
            "ser-diff",
            {"method.teacher": "latest", "training.participation": "cumulative"},
            {"teacher-2", wire.ERROR_MAPS},
        ),
        ("ser-diff", {"method.shared_error_maps": "none"}, {"teacher-1"}),
        ("distill", {}, {"teacher-1"}),
        ("image-replay", {"method.teacher": "latest"}, {wire.SYNTHETIC_IMAGES}),
        ("ewc", {}, {"teacher-2", wire.FISHER}),
        ("ewc", {"training.participation": "cumulative"}, {"teacher-2", wire.FISHER}),
        ("ser-diff+ewc", {}, {"teacher-1", "teacher-2", wire.ERROR_MAPS, wire.FISHER}),
        ("image-replay+ewc", {}, {"teacher-2", wire.SYNTHETIC_IMAGES, wire.FISHER}),
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
    assert checkpoint.position == AFTER_TWO
    assert checkpoint.arrays == student(STANDING)
    expected = sent_to_west(lived.stream)
    assert set(expected) == travels
    assert sent_to_west(fresh.stream) == expected
    assert fresh.stream.teacher_stage == lived.stream.teacher_stage


@pytest.mark.parametrize(("method", "changes"), [("ewc", {}), ("image-replay", {"method.teacher": "latest"})])
def test_what_is_kept_after_going_on_is_added_to_what_was_kept_before(
    link: SuperLink, run: RunDirectory, method: str, changes: dict[str, Any]
) -> None:
    config = smoke(method, **changes)
    lived = of_two_stages(config, link)
    lived.save(run)
    _, fresh = restored(config, link, run)
    for stream in (lived.stream, fresh.stream):
        before = sent_to_west(stream)
        stream.keep("west", plain(handed_over(config, student(99), 4, stream.asks_for())))
        stream.end_stage(student(3))
        assert sent_to_west(stream) != before
    assert sent_to_west(fresh.stream) == sent_to_west(lived.stream)


@pytest.mark.parametrize("name", ["FedAvgM", "FedAdagrad", "FedAdam", "FedYogi"])
def test_a_stage_that_is_gone_on_with_is_aggregated_by_the_moments_that_it_had(
    link: SuperLink, run: RunDirectory, name: str
) -> None:
    config = smoke("fine-tune", **{"aggregation.strategy": name, "aggregation.server_momentum": 0.9})
    lived = of_two_stages(config, link)
    lived.runner.begin_stage(3, Stage("west", ("west",)), {"west": NODES["west"]})
    after_one = next_round(lived.runner, student(STANDING), 1)
    lived.save(run, Position(3, 1))
    _, fresh = restored(config, link, run)
    fresh.runner.begin_stage(3, Stage("west", ("west",)), {"west": NODES["west"]})
    expected = next_round(lived.runner, after_one, 2)
    assert next_round(fresh.runner, after_one, 2) == expected
    without = Lived(config, link)
    without.runner.begin_stage(3, Stage("west", ("west",)), {"west": NODES["west"]})
    assert next_round(without.runner, after_one, 2) != expected


def test_results_ledgers_and_students_that_a_late_site_has_to_score_come_back(
    link: SuperLink, run: RunDirectory
) -> None:
    lived = of_two_stages(smoke(), link)
    lived.save(run)
    _, fresh = restored(smoke(), link, run)
    for name in ("rows", "stages", "losses", "seconds", "cases", "interruptions", "absences", "retention", "notes"):
        assert getattr(fresh.results, name) == getattr(lived.results, name)
    assert fresh.scoring.students == {0: student(0), 2: student(2)}
    assert fresh.runner.inbox.bytes_out == {"north": {wire.ARRAYS: 100}, "east": {wire.ARRAYS: 200}}
    assert fresh.runner.outbox.bytes_in == {"north": {wire.TEACHER: 300}, "east": {wire.TEACHER: 600}}
    for one in (lived, fresh):
        one.runner.inbox.count("west", handed_over(smoke(), student(1)))
        one.results.bytes_out = one.runner.inbox.bytes_out
        one.results.bytes_in = one.runner.outbox.bytes_in
    assert fresh.results.to_dict() == lived.results.to_dict()
    assert fresh.results.table() == lived.results.table()


def test_what_sites_leave_out_stays_what_it_was_and_by_the_same_salt(link: SuperLink, run: RunDirectory) -> None:
    lived = of_two_stages(smoke(), link)
    shared, own = np.full((1, 32), 7, np.uint8), np.full((1, 32), 9, np.uint8)
    lived.scans.add("north", shared)
    lived.scans.add("east", np.concatenate([own, shared]))
    lived.save(run)
    _, fresh = restored(smoke(), link, run)
    assert fresh.scans.record_for("east") == lived.scans.record_for("east") != {}
    assert fresh.scans.question() == lived.scans.question()
    assert fresh.scans.awaited(["west"]) == ["west"]


def test_a_checkpoint_of_a_checkpoint_is_the_same(link: SuperLink, run: RunDirectory, tmp_path: Path) -> None:
    """A coordinator may end more than once."""
    config = smoke("ewc")
    of_two_stages(config, link).save(run)
    _, fresh = restored(config, link, run)
    again = RunDirectory.new(tmp_path / "again")
    fresh.save(again)
    _, third = restored(config, link, again)
    assert sent_to_west(third.stream) == sent_to_west(fresh.stream)
    assert third.scoring.students == fresh.scoring.students
    assert third.results.rows == fresh.results.rows


def test_where_no_stage_has_ended_there_is_nothing_to_go_on_with(run: RunDirectory) -> None:
    assert Checkpoint.load(run, smoke()) is None


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"method": "ewc"}, "method.name was 'ser-diff', is 'ewc'"),
        ({"seed": 1, "method.lambda_kd": 0.5}, "seed was 0, is 1; method.lambda_kd was 1.0, is 0.5"),
        ({"sites": smoke().sites[:2]}, "is [['north', 'brats2021'], ['east', 'brats2021']]"),
    ],
    ids=["method", "numbers", "sites"],
)
def test_a_checkpoint_of_another_experiment_is_refused_with_the_fields_that_differ(
    link: SuperLink, run: RunDirectory, other: dict[str, Any], told: str
) -> None:
    of_two_stages(smoke(), link).save(run)
    with pytest.raises(ConfigError, match=r"checkpoint: belongs to another experiment: ") as caught:
        Checkpoint.load(run, smoke(**other))
    assert str(caught.value).endswith(told)


def test_a_checkpoint_of_other_software_is_refused_with_the_versions_that_differ(
    link: SuperLink, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_two_stages(smoke(), link).save(run)
    then = origin.installed_versions()
    monkeypatch.setattr(origin, "installed_versions", lambda: then | {"torch": "9.9", "python": "9.9"})
    with pytest.raises(ConfigError, match=rf"torch {re.escape(then['torch'])} then, 9\.9 now; install those") as caught:
        Checkpoint.load(run, smoke())
    assert "python" not in str(caught.value)


def test_a_run_goes_on_with_other_paths_and_limits_than_it_began_with(link: SuperLink, run: RunDirectory) -> None:
    of_two_stages(smoke(), link).save(run)
    moved = tuple(Site(site.name, site.release, f"/elsewhere/{site.name}") for site in smoke().sites)
    assert Checkpoint.load(run, smoke(sites=moved, **{"machine.stage_timeout_s": 5})) is not None


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [(1.0, 0, "on CPUs, before on a GPU"), (0, 0.5, "on a GPU, before on CPUs"), (0.5, 1, ""), (0, 0, "")],
)
def test_a_run_that_goes_on_on_another_device_says_so(
    link: SuperLink, run: RunDirectory, before: float, now: float, told: str
) -> None:
    of_two_stages(smoke(**{"machine.gpus_per_site": before}), link).save(run)
    checkpoint = Checkpoint.load(run, smoke(**{"machine.gpus_per_site": now}))
    assert checkpoint is not None
    assert checkpoint.moved_to(smoke(**{"machine.gpus_per_site": now})) == told


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "text": lambda whole: b"not a checkpoint\n",
    "one bit": lambda whole: whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
    "seal": lambda whole: whole.replace(whole[24:30], b"ffffff", 1),
    "one byte more": lambda whole: whole + b"\0",
    "none": lambda whole: whole,
}


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "none"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_gone_on_with(
    link: SuperLink, run: RunDirectory, damage: str
) -> None:
    lived = of_two_stages(smoke(), link)
    lived.save(run, Position(2, 1))
    lived.save(run, Position(2, 2))
    file = run.path / FILE
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    checkpoint, fresh = restored(smoke(), link, run)
    assert checkpoint.position == Position(2, 1)
    assert checkpoint.damaged.startswith(f"{file}: is damaged: it")
    assert sent_to_west(fresh.stream) == sent_to_west(lived.stream)
    (run.path / PREVIOUS).write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        Checkpoint.load(run, smoke())
    assert str(caught.value).endswith(f"no checkpoint is left to resume from; move {run.path} away and start again")
    assert str(caught.value).count("is damaged") == 2


def test_a_process_that_ends_between_two_names_leaves_the_state_before(link: SuperLink, run: RunDirectory) -> None:
    of_two_stages(smoke(), link).save(run, Position(2, 1))
    (run.path / FILE).rename(run.path / PREVIOUS)
    (run.path / f"{FILE}.partial").write_bytes(b"half")
    checkpoint, _ = restored(smoke(), link, run)
    assert checkpoint.position == Position(2, 1)
    assert checkpoint.damaged == ""


def test_positions_are_in_the_order_that_a_run_goes_through_them() -> None:
    passed = [Position(), Position(1, 1), Position(1, 2), Position(1, 2, True), Position(2), Position(2, 1)]
    assert passed == sorted(passed)
    assert [str(position) for position in passed] == [
        "the untrained student's scores",
        "stage 1, round 1",
        "stage 1, round 2",
        "stage 1, scored",
        "stage 1",
        "stage 2, round 1",
    ]


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
    lived.save(run, Position(2))
    lived.results.losses.append({"segmentation": 0.5})
    with (
        disk_of(1000),
        pytest.raises(StorageError, match=r"checkpoint: cannot be written \(File too large\)\. The run"),
    ):
        lived.save(run)
    checkpoint, fresh = restored(smoke(), link, run)
    assert checkpoint.position == Position(2)
    assert len(fresh.results.losses) == 2
    lived.save(run)
    checkpoint, fresh = restored(smoke(), link, run)
    assert (checkpoint.position, len(fresh.results.losses)) == (AFTER_TWO, 3)
    assert {file.name for file in run.path.iterdir()} == {FILE, PREVIOUS, "lock"}


def test_a_full_disk_is_told_and_half_a_file_makes_room_again(link: SuperLink, run: RunDirectory) -> None:
    lived = of_two_stages(smoke(), link)
    lived.save(run, Position(2))
    (run.path / f"{FILE}.partial").symlink_to("/dev/full")  # the kernel's own full disk
    with pytest.raises(StorageError, match="No space left on device"):
        lived.save(run)
    assert restored(smoke(), link, run)[0].position == Position(2)
    lived.save(run)
    assert restored(smoke(), link, run)[0].position == AFTER_TWO


def test_a_folder_closed_to_writing_is_told(link: SuperLink, run: RunDirectory) -> None:
    lived = of_two_stages(smoke(), link)
    lived.save(run, Position(2))
    (run.path / f"{FILE}.partial").mkdir()  # which root, too, cannot write as a file
    with pytest.raises(StorageError, match=r"checkpoint: cannot be written \(Is a directory\)"):
        lived.save(run)
    assert restored(smoke(), link, run)[0].position == Position(2)

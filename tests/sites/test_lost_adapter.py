"""A hospital knows that it trained behind an adapter: without it, or with an older one, it does nothing."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from guarded import assert_fault
from scene import EAST, NORTH, Scene
from students import lively_student

from fedserdiff import wire
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.errors import RecordsError
from fedserdiff.wire import Fault
from sites.adapters import load_adapter, save_adapter

WEST = {f"BraTS2021_0005{n}": 50 + n for n in range(5)}
OTHERS = ({"training.participation": "cumulative"}, {"machine.site_failure": "go-on"})


@pytest.fixture
def make_stream(make_scene: Callable[..., Scene]) -> Callable[..., Scene]:
    """Make three hospitals by SER-Diff+, two rounds a stage."""

    def make(**changes: object) -> Scene:
        sites = {"north": NORTH, "west": WEST, "east": EAST}
        return make_scene(sites, **{"method": "ser-diff-plus", "training.rounds": 2, **changes})

    return make


def ask(scene: Scene, site: str, message_type: str, **orders: int) -> Message:
    """Order something of a hospital, with a student and a teacher that are not new."""
    student = wire.weights_to_record(lively_student(scene.config))
    told = {"length": 1, "teacher-stage": [1]} if message_type == MessageType.TRAIN else {}
    sent = {wire.ARRAYS: student, **({wire.teacher_record(1): student} if told else {})}
    return scene.ask(site, message_type, RecordDict({**sent, wire.CONFIG: ConfigRecord({**orders, **told})}))


def keep(scene: Scene, site: str, *rounds: tuple[int, int]) -> None:
    """Put adapters into a hospital's records as its rounds would."""
    for stage, server_round in rounds:
        adapter = SiteAdapter(4)
        torch.nn.init.constant_(adapter.residual[-1].bias, stage + server_round)  # type: ignore[arg-type]
        save_adapter(scene.records(site), scene.config, site, adapter, (stage, server_round))


def lose(folder: Path, what: str) -> None:
    newest = folder / "adapter-2-2.pt"
    if what == "folder":
        shutil.rmtree(folder)
    elif what == "newest":
        newest.unlink()
    elif what == "all":
        for file in folder.glob("adapter-*"):
            file.unlink()
    elif what == "bits":
        newest.write_bytes(newest.read_bytes()[:-700])
    elif what == "another file":
        newest.write_text("no weights")
    else:
        torch.save(SiteAdapter(3).state_dict(), newest)  # of three modalities


@pytest.mark.parametrize("what", ["folder", "newest", "all", "bits", "another file", "shape"])
def test_a_hospital_that_lost_its_adapter_says_so_and_does_not_score_without_it(
    make_stream: Callable[..., Scene], what: str
) -> None:
    scene = make_stream()
    keep(scene, "west", (2, 1), (2, 2))
    whole = ask(scene, "west", MessageType.EVALUATE, stage=2)
    assert whole.has_content()
    lose(scene.records("west"), what)
    for row in (2, 3):
        assert_fault(ask(scene, "west", MessageType.EVALUATE, stage=row), Fault.RECORDS)
    assert "adapter-2-2.pt" in scene.log("west")
    assert "backup" in scene.log("west")
    assert ask(scene, "west", MessageType.EVALUATE, stage=1).has_content(), "of before it had trained"


@pytest.mark.parametrize("changes", [{}, *OTHERS])
def test_a_round_without_the_adapter_of_the_one_before_is_not_trained(
    make_stream: Callable[..., Scene], changes: dict[str, str]
) -> None:
    """A new one would be learnt in its place, and the student behind the old one would go to waste."""
    scene = make_stream(**changes)
    assert ask(scene, "west", MessageType.TRAIN, **{"stage": 2, "server-round": 1}).has_content()
    (scene.records("west") / "adapter-2-1.pt").unlink()
    assert_fault(ask(scene, "west", MessageType.TRAIN, **{"stage": 2, "server-round": 2}), Fault.RECORDS)
    assert not list(scene.records("west").glob("adapter-*"))
    again = ask(scene, "west", MessageType.TRAIN, **{"stage": 2, "server-round": 1})
    assert again.has_content(), "the round that made the lost adapter makes it again"


def test_nothing_is_handed_over_of_a_stage_without_its_adapter(make_stream: Callable[..., Scene]) -> None:
    scene = make_stream(**{"method.shared_error_maps": "mri"})
    keep(scene, "west", (2, 1))
    assert_fault(ask(scene, "west", wire.CONSOLIDATE, stage=2), Fault.RECORDS)
    keep(scene, "west", (2, 2))
    assert ask(scene, "west", wire.CONSOLIDATE, stage=2).has_content()


def test_of_a_cumulative_stream_the_adapter_of_the_newest_stage_is_asked_for(
    make_stream: Callable[..., Scene],
) -> None:
    scene = make_stream(**{"training.participation": "cumulative"})
    keep(scene, "west", (2, 1), (2, 2))
    assert ask(scene, "west", MessageType.EVALUATE, stage=2).has_content()
    assert_fault(ask(scene, "west", MessageType.EVALUATE, stage=3), Fault.RECORDS)
    keep(scene, "west", (3, 1), (3, 2))
    assert ask(scene, "west", MessageType.EVALUATE, stage=3).has_content()


def test_a_hospital_that_failed_at_its_rounds_scores_by_what_it_has(make_stream: Callable[..., Scene]) -> None:
    """Where a stage goes on without it: its ledger says which rounds it did train in."""
    scene = make_stream(**{"training.participation": "cumulative", "machine.site_failure": "go-on"})
    for row in (1, 2):
        assert ask(scene, "west", MessageType.EVALUATE, stage=row).has_content(), "it never trained"
    assert ask(scene, "west", MessageType.TRAIN, **{"stage": 3, "server-round": 1}).has_content()
    assert ask(scene, "west", MessageType.EVALUATE, stage=3).has_content(), "it missed the second round"
    (scene.records("west") / "adapter-3-1.pt").unlink()
    assert_fault(ask(scene, "west", MessageType.EVALUATE, stage=3), Fault.RECORDS)


@pytest.mark.parametrize(
    ("site", "changes"),
    [("north", {}), ("east", {}), ("west", {"method.inversion_steps": 0}), ("west", {"method": "distill"})],
)
def test_who_has_no_adapter_by_the_plan_needs_none(
    make_stream: Callable[..., Scene], site: str, changes: dict[str, object]
) -> None:
    """The first hospital, one that is yet to arrive, and all where nothing is inverted."""
    assert ask(make_stream(**changes), site, MessageType.EVALUATE, stage=2).has_content()


def test_another_file_beside_the_adapters_is_none(tmp_path: Path, make_stream: Callable[..., Scene]) -> None:
    config = make_stream().config
    save_adapter(tmp_path, config, "west", SiteAdapter(4), (2, 2))
    shutil.copy(tmp_path / "adapter-2-2.pt", tmp_path / "adapter-2-2 (copy).pt")
    assert load_adapter(tmp_path, config, "west", (3, 0)) is not None
    with pytest.raises(RecordsError, match=r"adapter-2-2\.pt: is missing"):
        load_adapter(tmp_path / "nowhere", config, "west", (3, 0))

"""A hospital's own files are complete at all times and have no duplicates."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, MessageType, RecordDict
from guarded import assert_fault
from scene import NORTH, Scene
from students import lively_student

from fedserdiff import wire
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.evaluation.measures import MEASURES
from fedserdiff.files import write_whole
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import Fault
from sites.evaluation import evaluate, score_case
from sites.hospital import Hospital

CONFIG = make_settings("smoke")


def disk_full(descriptor: int) -> None:
    raise OSError("no space left")


def half(opened: BinaryIO) -> None:
    opened.write(b"half of it")
    raise KeyboardInterrupt


def test_a_file_is_on_disk_before_it_takes_the_place_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut may leave the new name on empty blocks."""
    happened: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        happened.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        happened.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    file = tmp_path / "new folder" / "file"
    write_whole(file, lambda opened: opened.write(b"new"))
    assert happened == ["fsync file.partial", "replace", "fsync new folder"]
    assert file.read_bytes() == b"new"


@pytest.mark.parametrize("manner", ["interrupted", "disk full"])
def test_a_file_that_cannot_be_written_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manner: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"before")
    if manner == "disk full":
        monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises((KeyboardInterrupt, OSError)):
        write_whole(file, half if manner == "interrupted" else lambda opened: opened.write(b"new"))
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_killed_process_left_of_a_file_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "file.partial").write_bytes(b"much more than is written now")
    write_whole(tmp_path / "file", lambda opened: opened.write(b"new"))
    assert (tmp_path / "file").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def rows(table: Path) -> list[tuple[str, str]]:
    with table.open(newline="") as file:
        return list(dict.fromkeys((line["stage"], line["case"]) for line in csv.DictReader(file)))


def scored(hospital: Hospital, stage: int, table: Path, student: Student | None = None) -> dict[str, float]:
    return evaluate(student or new_student(CONFIG), hospital.test, CONFIG, stage, table)


def test_an_evaluation_that_is_asked_for_again_leaves_one_row_a_case(hospital: Hospital, tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    cases = [cached.case.name for cached in hospital.test]
    first = scored(hospital, 0, table)
    scored(hospital, 1, table)
    whole = table.read_bytes()
    for stage in (1, 0):
        assert scored(hospital, stage, table) == first, "the same student by another name"
    assert table.read_bytes() == whole
    assert rows(table) == [(str(stage), case) for stage in (0, 1) for case in cases]


def test_scores_of_a_stage_are_those_of_its_last_evaluation(hospital: Hospital, tmp_path: Path) -> None:
    """Stages are also in order, even if they were scored in another order."""
    table, student = tmp_path / "scores.csv", lively_student(CONFIG)
    for stage in (10, 2, 1):
        scored(hospital, stage, table)
    others = [line for line in table.read_text().splitlines() if not line.startswith("2,")]
    means = scored(hospital, 2, table, student)
    assert [line for line in table.read_text().splitlines() if not line.startswith("2,")] == others
    assert [stage for stage, _ in rows(table)] == ["1", "2", "10"]
    expected = score_case(student, hospital.test[0], CONFIG)
    with table.open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["stage"] == "2"]
    assert len(lines) == 2 * 3
    for line in lines:
        for name in MEASURES:
            assert float(line[name]) == expected[f"{line['mask']}.{name}.{line['region']}"]
    assert means == {name: value for name, value in expected.items() if ".dice." in name or ".hd95." in name}


def test_a_torn_row_of_a_table_is_not_kept(hospital: Hospital, tmp_path: Path) -> None:
    """An evaluation that ended while it wrote was not answered, so that it is asked for again."""
    table = tmp_path / "scores.csv"
    scored(hospital, 1, table)
    whole = table.read_bytes()
    scored(hospital, 2, table)
    table.write_bytes(table.read_bytes()[:-40])
    with table.open(newline="") as file:
        assert [line["stage"] for line in csv.DictReader(file)] == ["1"] * 6 + ["2"] * 6
    scored(hospital, 1, table)
    assert table.read_bytes() == whole


def test_a_table_that_cannot_be_written_is_as_it_was(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "scores.csv"
    scored(hospital, 1, table)
    whole = table.read_bytes()
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="no space left"):
        scored(hospital, 1, table, lively_student(CONFIG))
    assert table.read_bytes() == whole


def teach(scene: Scene, stage: int, teacher: Student | None) -> RecordDict | Fault:
    """Let the hospital train stage 3 with the teacher of a stage, which comes with the order or is there."""
    sent: dict[str, ArrayRecord] = {wire.ARRAYS: wire.weights_to_record(new_student(scene.config))}
    if teacher is not None:
        sent[wire.teacher_record(stage)] = wire.weights_to_record(teacher)
    order = ConfigRecord({"stage": 3, "server-round": 1, "length": 1, "teacher-stage": [stage]})
    reply = scene.ask("north", MessageType.TRAIN, RecordDict({**sent, wire.CONFIG: order}))
    return Fault(reply.error.code) if reply.has_error() else reply.content


@pytest.fixture
def scene(make_scene: Callable[..., Scene]) -> Scene:
    return make_scene(dict.fromkeys(("north", "west", "east"), NORTH), method="distill")


def kept(scene: Scene) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in scene.records("north").glob("teacher*")}


def other_teacher(config: Settings) -> Student:
    return new_student(config.replace(seed=5))


def test_a_teacher_is_kept_for_later_rounds_until_another_comes(scene: Scene) -> None:
    first = teach(scene, 1, lively_student(scene.config))
    assert isinstance(first, RecordDict)
    assert teach(scene, 1, None) == first
    second = teach(scene, 2, other_teacher(scene.config))
    assert second != first
    assert list(kept(scene)) == ["teacher-2.pt"]
    weights = torch.load(scene.records("north") / "teacher-2.pt", weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in other_teacher(scene.config).state_dict().items())
    assert teach(scene, 2, None) == second
    assert teach(scene, 1, None) is Fault.PROTOCOL


def test_a_teacher_that_cannot_be_kept_takes_nothing_from_the_one_before(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = teach(scene, 1, lively_student(scene.config))
    before = kept(scene)

    def torn(state: object, opened: BinaryIO) -> None:
        opened.write(b"half of it")
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", torn)
        assert teach(scene, 2, other_teacher(scene.config)) is Fault.INTERNAL
    assert kept(scene) == before
    assert teach(scene, 1, None) == first
    assert teach(scene, 2, None) is Fault.PROTOCOL
    assert isinstance(teach(scene, 2, other_teacher(scene.config)), RecordDict)


def test_without_a_disk_nothing_is_settled_and_nothing_is_trained(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left out has to be on disk before an answer leaves, or it could be varied after a restart."""

    def full(source: Path, target: Path) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        assert_fault(scene.order("north", MessageType.TRAIN), Fault.INTERNAL)
    assert not (scene.records("north") / "left-out.json").exists()
    assert scene.order("north", MessageType.TRAIN).has_content()

"""Combined methods: the loss is the sum of their terms, and each part keeps and sends the same as alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from losses import terms_of
from scene import EAST, NORTH, ORDER, Scene
from students import lively_student
from traffic import handed_over, plain

from fedserdiff import wire
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.errors import ConfigError
from fedserdiff.methods import get_method
from fedserdiff.methods.ewc import EwcSettings
from fedserdiff.methods.ser_diff import SerDiffSettings
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.foreign import foreign
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import Fault, Memory
from sites.hospital import Hospital
from sites.objectives.base import Objective
from sites.training import make_objective
from sites.training_set import Batch, TrainingSet
from strategies.stream import Stage, make_stream

BOTH = "ser-diff+ewc"
CPU = torch.device("cpu")
SITES = (Site("north", "brats2021", ""), Site("east", "brats2021", ""), Site("west", "brats2021", ""))


def smoke(method: str, **changes: Any) -> Settings:
    return make_settings("smoke", {"network.precision": "fp32", **changes}, method=method)


def test_the_settings_are_those_of_all_parts_each_with_its_own_default() -> None:
    config = make_settings("smoke", {"method.lambda_kd": 0.3, "method.weight": 7.0}, method=BOTH)
    assert (SerDiffSettings.of(config.method).lambda_kd, EwcSettings.of(config.method).weight) == (0.3, 7.0)
    assert config.shared_error_maps == "null"
    assert Settings.from_dict(config.to_dict()) == config
    of_part = Settings(methods={"ewc": {"weight": 7.0}}, method=BOTH)
    assert EwcSettings.of(of_part.method).weight == 7.0
    with pytest.raises(ConfigError, match=r"method\.taught_share: "):
        make_settings("smoke", {"method.taught_share": 0.5}, method=BOTH)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ser-diff+distill", "ser-diff and distill share a term: distillation"),
        ("ewc+ser-diff-plus", "ser-diff-plus is more than loss terms: put it first"),
        ("ewc+rehearsal", "rehearsal is more than loss terms: put it first"),
        ("ewc+lesion-replay", "lesion-replay is more than loss terms: put it first"),
        ("ewc+ewc", "ewc and ewc share a term: consolidation"),
        ("local+ewc", "local has no earlier hospitals"),
        ("ewc+", "unknown method ''"),
        ("ewc+magic", "unknown method 'magic'"),
        ("ewc + ser-diff", "unknown method 'ewc '"),
    ],
)
def test_methods_that_do_not_add_up_are_refused_saying_why(name: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_settings("smoke", method=name)
    assert why in str(caught.value)


def test_what_a_part_breaks_the_whole_breaks() -> None:
    method = get_method("rehearsal+ewc")
    assert method.breaks_privacy
    assert method.hands_over_all == ("fisher",)
    assert not get_method(BOTH).breaks_privacy
    assert get_method("ser-diff-plus+ewc").knows_origin
    with pytest.raises(ConfigError, match=r"privacy\.dp_noise: ser-diff\+ewc shares more"):
        make_settings("smoke", {"privacy.dp_noise": 1e-4, "privacy.dp_clip": 1.0}, method=BOTH)


def test_code_of_others_within_a_list_is_named_as_such() -> None:
    assert list(foreign({"method": {"name": "somewhere.else:METHOD+ewc"}})) == [("method", "somewhere.else:METHOD")]
    assert list(foreign({"method": BOTH})) == []


def shared_by(config: Settings, student: Student) -> Memory:
    """What the coordinator has of an earlier hospital: maps, and importances that differ from weight to weight."""
    record = handed_over(config, wire.weights_to_record(student)).array_records
    return wire.memory_of(RecordDict(dict(record)), student, config.replace(sites=SITES))


def gradients(objective: Objective, student: Student, training_set: TrainingSet, batch: Batch) -> dict[str, Any]:
    """The gradient of every term at every weight, the terms' noise being the same each time."""
    objective.begin(training_set, "north", 2, 1)
    terms = terms_of(objective, student, batch)
    weights = list(student.parameters())
    found = {}
    for name, value in terms.items():
        parts = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        found[name] = torch.cat([part.reshape(-1) for part in parts])
    return found


def test_each_term_has_the_value_and_the_gradient_that_it_has_alone(hospital: Hospital) -> None:
    together, replays, holds = (smoke(method, **{"replay.conditional_maps": 4}) for method in (BOTH, "ser-diff", "ewc"))
    student, first, latest = lively_student(together), frozen(new_student(together)), frozen(lively_student(together))
    with torch.no_grad():
        for weight in student.parameters():
            weight.mul_(1.1)
    training_set = TrainingSet(hospital.training, together, CPU)
    batch = training_set.batch(torch.arange(4))
    memory = shared_by(together, student)
    both = gradients(make_objective(together, (first, latest), memory), student, training_set, batch)
    one = gradients(
        make_objective(replays, (first,), {"error-maps": memory["error-maps"]}), student, training_set, batch
    )
    other = gradients(make_objective(holds, (latest,), {"fisher": memory["fisher"]}), student, training_set, batch)
    assert set(both) == {"segmentation", "distillation", "consolidation"}
    for name, expected in (one | other).items():
        assert float(expected.abs().max()) > 0
        torch.testing.assert_close(both[name], expected, rtol=1e-5, atol=1e-8)


def weights(value: float) -> ArrayRecord:
    return ArrayRecord({"weights": Array(np.full(9, value, np.float32))})


def test_each_part_asks_when_it_would_alone_and_a_teacher_of_two_is_sent_once() -> None:
    config = smoke(BOTH).replace(sites=SITES)
    stream = make_stream(config)
    asked, sent, stages = [], [], []
    for stage, site in enumerate(("north", "east", "west"), 1):
        stream.begin_stage(stage, Stage(site, (site,)))
        sent.append(set(stream.records_for(site, 1)))
        stages.append(stream.teacher_stages())
        stream.on_fit_reply(site, RecordDict())
        assert not any(wire.is_teacher(name) for name in stream.records_for(site, 2)), "the site has them"
        asked.append(stream.asks_for())
        stream.keep(site, plain(handed_over(config, weights(stage), 2, stream.asks_for())))
        stream.end_stage(weights(stage))
    assert asked == [("error-maps", "fisher"), ("fisher",), ("fisher",)]
    assert stages == [[0, 0], [1, 1], [1, 2]]
    assert sent == [set(), {"teacher-1", "error-maps", "fisher"}, {"teacher-1", "teacher-2", "error-maps", "fisher"}]
    assert stream.teacher == weights(1), "the one whose error maps people look at"


def frozen(student: Student) -> Student:
    return student.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("asked", "left"),
    [(["fisher"], {"fisher"}), (["error-maps", "fisher"], {"error-maps", "fisher"}), (["raw-scans"], None), ([], None)],
)
def test_a_hospital_hands_over_what_is_asked_for_of_what_was_agreed_and_nothing_else(
    make_scene: Callable[..., Scene], asked: list[str], left: set[str] | None
) -> None:
    scene = make_scene({"north": NORTH, "east": EAST}, method=BOTH, **{"replay.shared_maps": 2})
    student = wire.weights_to_record(lively_student(scene.config))
    order = ConfigRecord({"stage": 1, "records": asked})
    reply = scene.ask("north", wire.CONSOLIDATE, RecordDict({wire.ARRAYS: student, wire.CONFIG: order}))
    assert (set(reply.content) if reply.has_content() else None) == left


def test_a_hospital_keeps_the_teacher_of_each_part(make_scene: Callable[..., Scene]) -> None:
    scene = make_scene({"north": NORTH, "east": EAST}, method=BOTH)
    student = wire.weights_to_record(lively_student(scene.config))
    sent = {wire.ARRAYS: student, wire.teacher_record(1): student, wire.teacher_record(2): student}

    def train(records: dict[str, Any], stages: list[int]) -> Message:
        order = ConfigRecord({**ORDER, "stage": 2, "teacher-stage": stages})
        return scene.ask("north", MessageType.TRAIN, RecordDict({**records, wire.CONFIG: order}))

    assert train(sent, [1, 2]).has_content()
    assert sorted(file.name for file in scene.records("north").glob("teacher-*")) == ["teacher-1.pt", "teacher-2.pt"]
    assert train({wire.ARRAYS: student}, [1, 2]).has_content(), "they were kept"
    assert train({wire.ARRAYS: student}, [1]).error.code == Fault.PROTOCOL, "one for each part"
    assert train({wire.ARRAYS: student, wire.teacher_record(2): student}, [2, 2]).has_content()
    assert [file.name for file in scene.records("north").glob("teacher-*")] == ["teacher-2.pt"]

"""Federated learning from the start: rounds with the hospitals' own apps and the coordinator's parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from guarded import assert_fault
from numpy.typing import NDArray
from scene import NORTH, Scene
from traffic import COORDINATOR, RUN, answer

from fedserdiff import wire
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.errors import ConfigError, ReplyError
from fedserdiff.privacy.gaussian import most_releases
from fedserdiff.reply_schema import admit, reply_rules
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import Fault
from sites.kept_rounds import KeptRounds
from sites.objectives.fedprox import FedProxObjective
from sites.objectives.personal import FedBNObjective, FedPerObjective
from sites.objectives.scaffold import ScaffoldObjective
from strategies.first_stage import begins_with_first_stage
from strategies.stage_runner import StageRunner
from strategies.stream import Stage, make_stream

SOUTH = {f"BraTS2021_0007{n}": 70 + n for n in range(4)}
ROUNDS = 2
SHORT = {"method.rounds": ROUNDS, "training.steps_per_stage": 4, "training.batch_size": 4}

OTHERS = ("local", "fine-tune")
"""Methods that have their rounds of a stage as all others."""

Values = NDArray[np.float32]
Federate = Callable[..., "Federation"]


class Federation:
    """A stage of all hospitals: what it was, the student that it ended with, and what they have on their disks."""

    def __init__(self, scene: Scene) -> None:
        self.scene, config = scene, scene.config
        sites = [site.name for site in config.sites]
        self.runner = StageRunner(config, RunEvents())
        self.plan = self.runner.stream.stages(sites)[0]
        self.arrays = wire.weights_to_record(new_student(config))
        self.asked: list[list[str]] = []
        self.left: list[dict[str, RecordDict]] = []
        nodes = {site: 100 + sites.index(site) for site in self.plan.participants}
        self.runner.begin_stage(1, self.plan, nodes)
        of_node = {node: site for site, node in nodes.items()}
        for self.runner.server_round in range(1, config.rounds + 1):
            replies, left = [], {}
            for message in self.runner.train_messages(self.arrays):
                site = of_node[message.metadata.dst_node_id]
                left[site] = scene.ask(site, MessageType.TRAIN, message.content).content
                replies.append(answer(nodes[site], MessageType.TRAIN, left[site]))
            self.asked.append(list(left))
            self.left.append({site: RecordDict(dict(content)) for site, content in left.items()})
            self.arrays, self.losses, _ = self.runner.aggregate(self.arrays, replies[::-1])

    @property
    def values(self) -> Values:
        """The weights of the student that the coordinator has."""
        return values_of(self.arrays)

    def scores(self, site: str) -> dict[str, float]:
        """What a hospital says of the student at the end of the stage."""
        content = RecordDict({wire.ARRAYS: self.arrays, wire.CONFIG: ConfigRecord({"stage": 1})})
        metrics = self.scene.ask(site, MessageType.EVALUATE, content).content.metric_records[wire.METRICS]
        return {name: float(str(value)) for name, value in metrics.items()}


def values_of(record: ArrayRecord) -> Values:
    (vector,) = record.values()
    return vector.numpy().astype(np.float32)


@pytest.fixture
def federate(
    tmp_path: Path,
    draw_volumes: Callable[..., Any],
    write_case: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Federate:
    """Let one hospital, or as many as named, have a stage by a method; each federation has hospitals of its own."""
    for name, number in (("_task_id", 1), ("_run_id", RUN), ("_node_id", COORDINATOR)):  # in a run Flower does it
        monkeypatch.setattr(TaskIdentity, name, number)

    def run(method: str, sites: int = 2, **changes: Any) -> Federation:
        cases = {"north": NORTH, "south": SOUTH, "third": {"BraTS2021_00080": 80, "BraTS2021_00081": 81}}
        named = dict(list(cases.items())[:sites])
        length = {name.replace("method.", "training.") if method in OTHERS else name: n for name, n in SHORT.items()}
        folder = tmp_path / f"federation-{len([*tmp_path.iterdir()])}"
        return Federation(Scene(folder, draw_volumes, write_case, named, **{"method": method, **length, **changes}))

    return run


def test_all_hospitals_train_in_every_round_of_one_stage_and_each_uses_its_student(federate: Federate) -> None:
    done = federate("fedavg")
    assert done.plan == Stage("together", ("north", "south"))
    assert done.asked == [["north", "south"]] * ROUNDS
    assert make_stream(done.scene.config).deployed(["north", "south"]) == [1, 1]
    assert not begins_with_first_stage(done.scene.config)


@pytest.mark.parametrize(
    ("method", "neutral"),
    [
        ("fedprox", {"method.mu": 0.0}),
        ("scaffold", {"method.correction": 0.0}),
        ("fedavgm", {"aggregation.server_momentum": 0.0}),
    ],
)
def test_a_method_whose_own_part_has_no_weight_is_fedavg_to_the_last_digit(
    federate: Federate, method: str, neutral: dict[str, float]
) -> None:
    plain = federate("fedavg").values
    assert np.array_equal(federate(method, **neutral).values, plain)
    assert not np.array_equal(federate(method).values, plain)


@pytest.mark.parametrize("method", ["fedavg", "fedbn", "fedper"])
def test_one_hospital_alone_has_the_student_of_local_training_to_the_last_digit(
    federate: Federate, method: str
) -> None:
    assert federate(method, 1).scores("north") == federate("local", 1).scores("north")


def test_arriving_together_is_a_setting_of_other_methods_too(federate: Federate) -> None:
    together = federate("fine-tune", **{"training.arrival": "together"})
    assert np.array_equal(together.values, federate("fedavg").values)


def test_a_federation_that_comes_in_turn_has_a_stage_a_hospital_and_shares_no_first_stage() -> None:
    """FedProx has its penalty in stage 1 already."""
    config = make_settings("smoke", {"training.arrival": "in-turn"}, method="fedprox")
    assert make_stream(config).stages(["a", "b"]) == [Stage("a", ("a",)), Stage("b", ("b",))]
    assert not begins_with_first_stage(config.replace(sites=two_sites()))
    assert begins_with_first_stage(make_settings("smoke", method="fine-tune", sites=two_sites()))


def two_sites() -> tuple[Site, ...]:
    return (Site("a", "brats2021", ""), Site("b", "brats2021", ""))


def test_hospitals_of_a_round_are_drawn_anew_each_round_by_the_seed(federate: Federate) -> None:
    half = {"aggregation.fraction_train": 0.4, "method.rounds": 4}
    done = federate("fedavg", 3, **half)
    assert {len(sites) for sites in done.asked} == {1}  # 1.2, rounded
    assert len({*map(tuple, done.asked)}) > 1
    assert federate("fedavg", 3, **half).asked == done.asked
    assert federate("fedavg", 3, **half, seed=1).asked != done.asked


def test_weights_of_normalisation_stay_at_their_hospital(federate: Federate) -> None:
    done = federate("fedbn")
    fresh = new_student(done.scene.config)
    own = set(FedBNObjective.personal(fresh))
    norms = {name for name, _ in fresh.named_parameters() if ".norm" in name or name.split(".")[-2] == "0"}
    assert own
    assert own <= norms  # of U-Nets whose norms are called so, or stand first in their last block
    places = np.concatenate([np.full(w.numel(), name in own) for name, w in fresh.named_parameters()])
    for left in (content for by_site in done.left for content in by_site.values()):
        change = values_of(left.array_records[wire.ARRAYS])
        assert not change[places].any()
        assert change[~places].any()
    assert np.array_equal(done.values[places], values_of(wire.weights_to_record(fresh))[places])
    kept = {site: torch.load(done.scene.records(site) / f"personal-1-{ROUNDS}.pt") for site in ("north", "south")}
    assert set(kept["north"]) == set(kept["south"]) == own
    assert any(not torch.equal(kept["north"][name], kept["south"][name]) for name in own)


def test_a_hospital_scores_the_student_with_its_own_weights_and_not_without(federate: Federate) -> None:
    done = federate("fedbn", **{"training.learning_rate": 0.01, "training.steps_per_stage": 12})
    scored = done.scores("north")
    (file,) = done.scene.records("north").glob(f"personal-1-{ROUNDS}.pt")
    weights = torch.load(file)
    torch.save({name: torch.zeros_like(weight) for name, weight in weights.items()}, file)
    assert done.scores("north") != scored
    file.unlink()
    content = RecordDict({wire.ARRAYS: done.arrays, wire.CONFIG: ConfigRecord({"stage": 1})})
    assert_fault(done.scene.ask("north", MessageType.EVALUATE, content), Fault.RECORDS)
    assert "backup" in done.scene.log("north")


def test_the_last_layer_of_both_networks_is_what_fedper_keeps() -> None:
    student = Student(make_settings("smoke"))
    names = FedPerObjective.personal(student)
    shapes = {name: tuple(weight.shape) for name, weight in student.named_parameters() if name in names}
    assert sorted(name.partition(".")[0] for name in names) == ["coarse", "coarse", "refiner", "refiner"]
    last = [name for name, _ in student.named_parameters() if name.startswith("coarse.")][-2:]
    assert set(last) <= set(shapes)


def test_controls_of_the_coordinator_are_the_mean_of_those_that_hospitals_keep(federate: Federate) -> None:
    done = federate("scaffold")
    kept = [torch.load(done.scene.records(site) / f"own-1-{ROUNDS}.pt") for site in ("north", "south")]
    mean = torch.cat([((one + other) / 2).flatten() for one, other in zip(*(k.values() for k in kept), strict=True)])
    sent = values_of(done.runner.stream.records_for("north", ROUNDS + 1)[wire.CONTROL])
    assert mean.abs().max() > 0
    np.testing.assert_allclose(sent, mean.numpy(), rtol=1e-4, atol=1e-7)


def test_control_variates_which_are_as_large_as_a_student_are_kept_of_the_last_three_rounds(
    federate: Federate,
) -> None:
    done = federate("scaffold", 1, **{"method.rounds": 5, "training.steps_per_stage": 5})
    kept = {file.name for file in done.scene.records("north").glob("own-*.pt")}
    assert kept == {f"own-1-{number}.pt" for number in (3, 4, 5)}
    alike = federate("fedbn", 1, **{"method.rounds": 5, "training.steps_per_stage": 5})
    assert len([*alike.scene.records("north").glob("personal-*.pt")]) == 5, "earlier students are scored with them"


def test_a_run_that_goes_on_has_the_controls_that_it_had(federate: Federate) -> None:
    done = federate("scaffold")
    again = make_stream(done.scene.config)
    again.load_state_dict(done.runner.stream.state_dict())
    again.begin_stage(1, done.plan)
    sent, kept = (values_of(one.records_for("north", 3)[wire.CONTROL]) for one in (again, done.runner.stream))
    assert np.array_equal(sent, kept)


def test_a_stage_begins_without_controls_of_the_one_before_at_the_coordinator_and_at_hospitals(
    federate: Federate,
) -> None:
    """A run that goes on after a stage has none either: the two sides would disagree."""
    done = federate("scaffold")
    stream, records, config = done.runner.stream, done.scene.records("north"), done.scene.config
    stream.end_stage(done.arrays)
    again = make_stream(config)
    again.load_state_dict(stream.state_dict())
    assert stream.records_for("north", 1) == again.records_for("north", 1) == {}
    kept, like = KeptRounds(records, "own", config, "north"), dict(Student(config).named_parameters())
    assert kept.load((2, 1), like) is not None
    assert kept.load((2, 1), like, since=(2, 0)) is None
    kept.save({name: torch.ones_like(weight) for name, weight in like.items()}, (2, 1))
    found = kept.load((2, 2), like, since=(2, 0))
    assert found is not None
    assert all((value == 1).all() for value in found.values())


def test_a_step_takes_the_gradient_less_the_hospitals_control_plus_the_coordinators() -> None:
    """Two steps by hand with gradients 1 and 3: the next control is their mean, without the correction."""
    config = make_settings("smoke", method="scaffold")
    student = Student(config)
    weights = dict(student.named_parameters())
    objective = ScaffoldObjective(
        config, memory={wire.CONTROL: {n: torch.full_like(w, 0.5) for n, w in weights.items()}}
    )
    objective.own = {name: torch.full_like(weight, 0.2) for name, weight in weights.items()}
    objective.received(student)
    for gradient in (1.0, 3.0):
        for weight in weights.values():
            weight.grad = torch.full_like(weight, gradient)
        for network in ("coarse", "refiner"):
            objective.correct(network, student)
        for weight in weights.values():
            torch.testing.assert_close(weight.grad, torch.full_like(weight, gradient - 0.2 + 0.5))
    told = objective.hand_over()[wire.CONTROL]
    for name in weights:
        torch.testing.assert_close(objective.own[name], torch.full_like(weights[name], 2.0))
        torch.testing.assert_close(told[name], torch.full_like(weights[name], 1.8))


def test_the_penalty_pulls_a_weight_back_by_mu_times_how_far_it_has_moved() -> None:
    config = make_settings("smoke", {"method.mu": 0.3}, method="fedprox")
    student, objective = Student(config), FedProxObjective(config)
    objective.received(student)
    moved = dict(student.named_parameters())
    with torch.no_grad():
        for weight in moved.values():
            weight += 0.5
    for network in ("coarse", "refiner"):
        (term,) = objective.penalties(network, student).values()
        count = sum(weight.numel() for name, weight in moved.items() if name.startswith(network))
        assert term.item() == pytest.approx(0.3 / 2 * 0.25 * count, rel=1e-4)
        term.backward()
    for weight in moved.values():
        torch.testing.assert_close(weight.grad, torch.full_like(weight, 0.3 * 0.5))


def test_a_round_of_scaffold_without_its_control_is_not_let_in_and_another_methods_with_one_neither(
    federate: Federate,
) -> None:
    """The guard at the hospital and the inbox go by the same rules."""
    done = federate("scaffold")
    rules = reply_rules(MessageType.TRAIN, done.scene.config, 0, done.arrays)
    whole = done.left[0]["north"]
    admit(whole, rules)
    with pytest.raises(ReplyError, match="records other than arrays, control, metrics"):
        admit(RecordDict({name: record for name, record in whole.items() if name != wire.CONTROL}), rules)
    with pytest.raises(ReplyError, match="records other than arrays, metrics"):
        admit(whole, reply_rules(MessageType.TRAIN, done.scene.config.replace(method="fedavg"), 0, done.arrays))


def test_noise_on_weights_does_not_cover_controls_and_counts_the_rounds_of_one_stage() -> None:
    noisy = {"privacy.dp_noise": 0.1, "method.rounds": 7, "training.steps_per_stage": 20}
    with pytest.raises(ConfigError, match=r"privacy.dp_noise: scaffold shares more"):
        make_settings("smoke", noisy, method="scaffold")
    cumulative = make_settings(
        "smoke", {**noisy, "training.participation": "cumulative"}, method="fedavg", sites=two_sites()
    )
    assert [most_releases(cumulative, site) for site in (0, 1)] == [7, 7]


def test_a_stage_of_few_steps_has_no_more_rounds_than_those() -> None:
    assert make_settings("smoke", {"method.rounds": 30, "training.steps_per_stage": 9}, method="fedavg").rounds == 9
    assert make_settings("smoke", {"method.rounds": 3, "training.steps_per_stage": 9}, method="fedavg").rounds == 3


def test_a_stream_with_fedproxs_penalty_is_a_stream_of_as_many_rounds_as_ever() -> None:
    config = make_settings("laptop", {"training.rounds": 3}, method="ser-diff+fedprox", sites=two_sites())
    assert (config.rounds, config.arrival) == (3, "in-turn")
    assert make_settings("laptop", method="fedprox+ewc").arrival == "together"
    assert make_settings("laptop", method="fedprox+ewc").rounds == 20


@pytest.mark.parametrize(("method", "strategy"), [("fedadam", "FedAdam"), ("fine-tune", "FedAvg")])
def test_the_strategy_is_the_methods_unless_the_settings_name_another(method: str, strategy: str) -> None:
    assert make_settings("smoke", method=method).strategy == strategy
    assert make_settings("smoke", {"aggregation.strategy": "FedMedian"}, method=method).strategy == "FedMedian"

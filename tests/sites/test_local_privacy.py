"""Noise on a round's change of weights: its source, the result that leaves, and how often it leaves."""

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from guarded import assert_fault
from scene import NORTH, ORDER, WEST, Scene
from scipy.stats import kstest

import sites.client_app
from fedserdiff import wire
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.errors import DataError
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import Fault
from sites.ledger import read_ledger
from sites.local_privacy import privatised, simulated_key
from sites.secret_key import secret_key

KEY = bytes(range(32))
MakeScene = Callable[..., Scene]


def change_of(norm: float, size: int = 100_000) -> ArrayRecord:
    values = np.random.default_rng(1).normal(size=size)
    return ArrayRecord({"weights": Array((values * norm / np.linalg.norm(values)).astype(np.float16))})


def values(record: ArrayRecord) -> np.ndarray[Any, np.dtype[np.float64]]:
    return record["weights"].numpy().astype(np.float64)


@pytest.mark.parametrize(("norm", "leaves"), [(40.0, 10.0), (4.0, 4.0)])
def test_a_change_is_clipped_to_a_norm_and_no_smaller_one_is_touched(norm: float, leaves: float) -> None:
    change = change_of(norm)
    clipped = values(
        privatised(
            change, make_settings("smoke", {"privacy.dp_noise": 1e-9, "privacy.dp_clip": 10.0}, method="fine-tune"), KEY
        )
    )
    assert np.linalg.norm(clipped) == pytest.approx(leaves, rel=1e-3)
    np.testing.assert_allclose(clipped, values(change) * leaves / norm, atol=1e-4)


def test_noise_is_normal_and_as_wide_as_its_share_of_the_sensitivity() -> None:
    config = make_settings("smoke", {"privacy.dp_noise": 0.5, "privacy.dp_clip": 3.0}, method="fine-tune")
    noise = values(privatised(change_of(1.0), config, KEY)) - values(change_of(1.0))
    assert kstest(noise / (2 * 3.0 * 0.5), "norm").pvalue > 0.01
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.02


def test_the_same_change_gets_the_same_noise_and_another_change_its_own() -> None:
    config = make_settings("smoke", {"privacy.dp_noise": 1.0, "privacy.dp_clip": 100.0}, method="fine-tune")
    one, other = change_of(1.0), change_of(1.01)
    assert privatised(one, config, KEY) == privatised(one, config, KEY)
    noises = [values(privatised(r, config, k)) - values(r) for r, k in ((one, KEY), (other, KEY), (one, bytes(32)))]
    for a, b in ((0, 1), (0, 2)):
        assert abs(np.corrcoef(noises[a], noises[b])[0, 1]) < 0.02


def test_a_hospital_keeps_a_key_that_it_alone_can_read_and_uses_no_half_of_one(tmp_path: Any) -> None:
    file = tmp_path / "north" / "noise.key"
    key = secret_key(file)
    assert len(key) == 32
    assert secret_key(file) == key != secret_key(tmp_path / "east.key")
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(key[:7])
    with pytest.raises(DataError, match=r"noise\.key: damaged: it does not have 32 bytes"):
        secret_key(file)


def test_a_simulation_repeats_and_its_sites_have_noises_of_their_own() -> None:
    config = make_settings("smoke")
    assert simulated_key(config, "north") == simulated_key(config, "north") != simulated_key(config, "east")
    assert simulated_key(config.replace(seed=1), "north") != simulated_key(config, "north")


def trained(scene: Scene, seed: int, **changes: Any) -> Message:
    """What the hospital answers to an order to train a student of this seed."""
    student = wire.weights_to_record(new_student(scene.config.replace(seed=seed)))
    content = RecordDict({wire.ARRAYS: student, wire.CONFIG: ConfigRecord({**ORDER})})
    return scene.ask("north", MessageType.TRAIN, content, **changes)


def test_a_coordinator_cannot_have_a_hospital_train_for_longer_than_a_stage(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH, "west": WEST}, method="fine-tune", **{"training.steps_per_stage": 2})
    longer = {wire.CONFIG: ConfigRecord({**ORDER, "length": 2})}
    assert_fault(scene.order("north", MessageType.TRAIN, longer), Fault.PROTOCOL)
    assert "ordered length = 2, not a number from 1 to 1" in scene.log("north")
    assert scene.order("north", MessageType.TRAIN).has_content()


def test_a_hospital_lets_out_as_many_changes_as_the_noise_is_reckoned_for(make_scene: MakeScene) -> None:
    scene = make_scene(
        {"north": NORTH},
        method="fine-tune",
        **{"privacy.dp_noise": 0.001, "training.rounds": 2, "training.steps_per_stage": 8},
    )
    first, again = trained(scene, 0), trained(scene, 0)
    assert first.content == again.content  # a message that was lost may be sent again
    assert set(first.content.metric_records[wire.METRICS]) == {wire.WEIGHT}  # losses get no noise: they stay
    assert trained(scene, 1).has_content()
    third = trained(scene, 2)

    assert_fault(third, Fault.BLOCKED)
    assert "dp_noise: all 2 weight changes that the privacy budget allows have left already" in scene.log("north")
    assert trained(scene, 0).content == first.content
    (scene.records("north") / "noise.key").unlink()
    assert trained(scene, 0).content == first.content
    shutil.rmtree(scene.records("north") / "released")
    assert_fault(trained(scene, 0), Fault.BLOCKED)  # what it drew for itself: the seed tells nobody its noise
    assert trained(scene, 0, **{"privacy.dp_noise": 0.0}).content[wire.ARRAYS] != first.content[wire.ARRAYS]


def sent(scene: Scene) -> list[tuple[str, str]]:
    """Verdict and digest of weights of each answer that stands in the hospital's ledger, faults without one."""
    chain = read_ledger(scene.records("north") / "ledger.jsonl")
    return [(e.verdict, next((r.sha256 for r in e.records if r.name == wire.ARRAYS), "")) for e in chain]


@pytest.fixture
def other_bits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have every training end with other bits than the one before, as a GPU's does; return which were done."""
    done: list[int] = []
    train = sites.client_app.run_round

    def nudged(student: Student, *rest: Any) -> Any:
        result = train(student, *rest)
        done.append(len(done))
        with torch.no_grad():
            for weight in student.parameters():
                for _ in done[1:]:
                    weight.copy_(torch.nextafter(weight, torch.tensor(2.0)))
        return result

    monkeypatch.setattr(sites.client_app, "run_round", nudged)
    return done


def test_a_round_whose_answer_was_lost_is_answered_by_what_was_released(
    make_scene: MakeScene, other_bits: list[int]
) -> None:
    scene = make_scene(
        {"north": NORTH},
        method="fine-tune",
        **{"privacy.dp_noise": 0.001, "training.rounds": 2, "training.steps_per_stage": 8},
    )
    first = trained(scene, 0)
    for _ in range(3):
        assert trained(scene, 0).content == first.content
    ((verdict, digest),) = set(sent(scene))
    assert (verdict, len(sent(scene))) == ("sent", 4)
    assert other_bits == [0], "nor is it computed again"

    second = trained(scene, 1)
    assert second.has_content()
    assert second.content[wire.ARRAYS] != first.content[wire.ARRAYS]
    assert {d for _, d in sent(scene)} > {digest}
    assert_fault(trained(scene, 2), Fault.BLOCKED)  # both changes that the noise covers have left
    assert [trained(scene, seed).content for seed in (0, 1)] == [first.content, second.content]
    assert_fault(trained(scene, 2), Fault.BLOCKED)
    kept = list((scene.records("north") / "released").iterdir())
    assert len(kept) == 2, "what did not leave is not kept"
    assert {file.stat().st_mode & 0o777 for file in kept} == {0o600}


@pytest.mark.parametrize(
    "other",
    [{"server-round": 2}, {"stage": 2}, {wire.ARRAYS: 1e-7}, {"privacy.dp_noise": 0.002}, {"privacy.dp_clip": 9.0}],
    ids=str,
)
def test_an_order_that_differs_in_anything_gets_no_old_answer(
    make_scene: MakeScene, other_bits: list[int], other: dict[str, Any]
) -> None:
    scene = make_scene(
        {"north": NORTH, "west": WEST},
        method="fine-tune",
        **{
            "privacy.dp_noise": 0.001,
            "training.rounds": 2,
            "training.participation": "cumulative",
            "training.steps_per_stage": 8,
            "data.allow_overlap": True,
        },
    )
    student = wire.weights_to_record(new_student(scene.config))
    first = scene.order("north", MessageType.TRAIN)
    ordered = {**ORDER, **{name: value for name, value in other.items() if name in ORDER}}
    moved = ArrayRecord({n: Array(a.numpy() + np.float32(other.get(wire.ARRAYS, 0))) for n, a in student.items()})
    settings = {name: value for name, value in other.items() if name.startswith("privacy.")}
    records = {wire.ARRAYS: moved, wire.CONFIG: ConfigRecord(ordered)}
    second = scene.order("north", MessageType.TRAIN, records, **settings)
    assert second.has_content()
    assert second.content[wire.ARRAYS] != first.content[wire.ARRAYS]
    assert other_bits == [0, 1]


def test_of_earlier_stages_and_experiments_no_released_change_is_kept(make_scene: MakeScene) -> None:
    scene = make_scene(
        {"north": NORTH, "west": WEST},
        method="fine-tune",
        **{
            "privacy.dp_noise": 0.001,
            "training.rounds": 1,
            "training.participation": "cumulative",
            "training.steps_per_stage": 4,
            "data.allow_overlap": True,
        },
    )
    for stage in (1, 2):
        assert scene.order(
            "north", MessageType.TRAIN, {wire.CONFIG: ConfigRecord({**ORDER, "stage": stage})}
        ).has_content()
        assert len(list((scene.records("north") / "released").iterdir())) == 1
    assert scene.order("north", MessageType.TRAIN, **{"privacy.dp_noise": 0.0}).has_content()
    assert len(list((scene.records("north") / "released").iterdir())) == 1, "without noise nothing is kept"


def test_nothing_leaves_that_could_not_be_kept(make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(
        {"north": NORTH}, method="fine-tune", **{"privacy.dp_noise": 0.001, "training.steps_per_stage": 4}
    )
    scene.records("north").mkdir(parents=True)
    (scene.records("north") / "released").write_text("a file in the folder's place")
    assert_fault(trained(scene, 0), Fault.INTERNAL)
    assert sent(scene) == [("fault", "")]


def test_a_kept_change_that_has_lost_a_bit_is_not_sent(make_scene: MakeScene, other_bits: list[int]) -> None:
    scene = make_scene(
        {"north": NORTH},
        method="fine-tune",
        **{"privacy.dp_noise": 0.001, "training.rounds": 1, "training.steps_per_stage": 4},
    )
    assert trained(scene, 0).has_content()
    (file,) = (scene.records("north") / "released").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    assert_fault(trained(scene, 0), Fault.BLOCKED)  # other bits: a change more than the noise covers
    assert f"{file}: damaged, so the round is repeated" in scene.log("north")
    assert other_bits == [0, 1]

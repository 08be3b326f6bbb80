"""Noise on what a round changes: what leaves, how often, and what it is drawn from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from guarded import assert_fault
from scene import NORTH, ORDER, WEST, Scene
from scipy.stats import kstest

from fedserdiff import wire
from fedserdiff.config import make_config
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.errors import DataError
from fedserdiff.wire import Fault
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
    clipped = values(privatised(change, make_config("smoke", dp_noise=1e-9, dp_clip=10.0), KEY))
    assert np.linalg.norm(clipped) == pytest.approx(leaves, rel=1e-3)
    np.testing.assert_allclose(clipped, values(change) * leaves / norm, atol=1e-4)


def test_noise_is_normal_and_as_wide_as_its_share_of_the_sensitivity() -> None:
    config = make_config("smoke", dp_noise=0.5, dp_clip=3.0)
    noise = values(privatised(change_of(1.0), config, KEY)) - values(change_of(1.0))
    assert kstest(noise / (2 * 3.0 * 0.5), "norm").pvalue > 0.01
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.02


def test_the_same_change_gets_the_same_noise_and_another_change_its_own() -> None:
    config = make_config("smoke", dp_noise=1.0, dp_clip=100.0)
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
    with pytest.raises(DataError, match=r"noise\.key: damaged: not 32 bytes"):
        secret_key(file)


def test_a_simulation_repeats_and_its_sites_have_noises_of_their_own() -> None:
    config = make_config("smoke")
    assert simulated_key(config, "north") == simulated_key(config, "north") != simulated_key(config, "east")
    assert simulated_key(config.replace(seed=1), "north") != simulated_key(config, "north")


def trained(scene: Scene, seed: int, **changes: Any) -> Message:
    """What the hospital answers to an order to train a student of this seed."""
    student = wire.weights_to_record(new_student(scene.config.replace(seed=seed)))
    content = RecordDict({wire.ARRAYS: student, wire.CONFIG: ConfigRecord({**ORDER})})
    return scene.ask("north", MessageType.TRAIN, content, **changes)


def test_a_coordinator_cannot_have_a_hospital_train_for_longer_than_a_stage(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH, "west": WEST}, method="fine-tune", steps_per_stage=2)
    longer = {wire.CONFIG: ConfigRecord({**ORDER, "length": 2})}
    assert_fault(scene.order("north", MessageType.TRAIN, longer), Fault.PROTOCOL)
    assert "ordered length = 2, not a number from 1 to 1" in scene.log("north")
    assert scene.order("north", MessageType.TRAIN).has_content()


def test_a_hospital_lets_out_as_many_changes_as_the_noise_is_reckoned_for(make_scene: MakeScene) -> None:
    scene = make_scene({"north": NORTH}, method="fine-tune", dp_noise=0.001, rounds=2, steps_per_stage=8)
    first, again = trained(scene, 0), trained(scene, 0)
    assert first.content == again.content  # a message that was lost may be sent again
    assert set(first.content.metric_records[wire.METRICS]) == {wire.WEIGHT}  # losses get no noise: they stay
    assert trained(scene, 1).has_content()
    third = trained(scene, 2)

    assert_fault(third, Fault.BLOCKED)
    assert "dp_noise: all 2 changes of weights have left already" in scene.log("north")
    assert trained(scene, 0).content == first.content
    (scene.records("north") / "noise.key").unlink()  # what it drew for itself: the seed tells nobody its noise
    assert_fault(trained(scene, 0), Fault.BLOCKED)
    assert trained(scene, 0, dp_noise=0.0).content[wire.ARRAYS] != first.content[wire.ARRAYS]

"""A step's memory, counted without values: compared with sums by hand, and the settings that lower it."""

import io
from typing import Any

import pytest
import torch
from rich.console import Console
from torch._subclasses.fake_tensor import FakeTensorMode

from fedserdiff.diffusion.refiner import new_student
from fedserdiff.experiments import simulated_run
from fedserdiff.experiments import step_memory as counting
from fedserdiff.experiments.step_memory import step_memory
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.threads import use_cpus

GIB = 2**30


def settings(profile: str, method: str, **changes: Any) -> Settings:
    sites = tuple(Site(f"site-{n}", "brats2021", "") for n in (1, 2))
    return make_settings(profile, changes, method=method).replace(sites=sites)


def test_views_cost_nothing_and_what_is_let_go_of_counts_no_longer() -> None:
    with FakeTensorMode(), counting._Alive() as alive:
        first = torch.zeros(1000)  # 4,000 bytes
        half = first[:500]  # none
        second = first + 1  # 8,000 in all
        del first, second
        third = torch.zeros(500, dtype=torch.float64)  # half still holds the first: 8,000 again
        assert alive.most == 8000
        del half
        fourth = torch.zeros(1000)
        assert alive.most == 8000
        fifth = torch.zeros(1)
    assert alive.most == 8004
    assert len(third) + len(fourth) + len(fifth) == 1501


def test_a_step_holds_weights_gradients_and_moments_at_least_and_grows_with_its_batch() -> None:
    """Next to nothing but weights on a small grid; on larger batches what is added is in proportion."""
    use_cpus(1)
    wide = {"network.coarse_channels": (128, 256), "network.refiner_channels": (128, 256), "data.grid": (16, 16, 16)}
    weights = sum(4 * weight.numel() for weight in new_student(settings("smoke", "fine-tune", **wide)).parameters())
    of = [settings("smoke", "fine-tune", **wide, **{"training.batch_size": n}) for n in (1, 2, 3)]
    one, two, three = map(step_memory, of)
    # three numbers beside each weight, and a teacher's, with what a few slices need
    assert 4.9 * weights < one < 7 * weights
    assert three - two == pytest.approx(two - one, rel=0.35)


@pytest.mark.parametrize(("arrival", "stage"), [("method", 1), ("in-turn", 2)])
def test_control_variates_are_counted_beside_the_weights(arrival: str, stage: int) -> None:
    """Per weight at least two more numbers: the sum of the round's gradients, and cᵢ as the round begins."""
    use_cpus(1)
    changes = {"training.arrival": arrival, "training.batch_size": 1}
    weights = sum(4 * weight.numel() for weight in new_student(settings("smoke", "fedavg")).parameters())
    plain, controlled = (step_memory(settings("smoke", method, **changes), stage) for method in ("fedavg", "scaffold"))
    assert controlled - plain > 1.9 * weights


@pytest.mark.parametrize("method", ["lesion-replay", "mas", "der"])
def test_a_past_adds_a_teacher_or_an_anchor_at_least(method: str) -> None:
    use_cpus(1)
    config = settings("smoke", method, **{"training.batch_size": 1})
    assert step_memory(config, 2) > step_memory(config, 1)


@pytest.mark.parametrize("method", ["ser-diff", "ser-diff-plus"])  # others hold less
def test_profile_paper_fits_a_gpu_of_24_gib_by_every_kind_of_method(method: str) -> None:
    use_cpus(2)
    assert 8 * GIB < step_memory(settings("paper", method)) <= 22 * GIB


def test_smaller_passes_and_checkpointing_hold_less() -> None:
    config = settings("workstation", "fine-tune", **{"training.batch_size": 4})
    whole = step_memory(config)
    assert step_memory(config.replace({"training.samples_a_pass": 2})) < 0.65 * whole
    assert step_memory(config.replace({"training.checkpointing": True})) < 0.75 * whole


def test_a_run_on_a_gpu_says_what_a_step_holds_and_warns_where_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = settings("smoke", "fine-tune", **{"machine.gpus_per_site": 0.5})
    held = step_memory(config)
    lines = []
    for room in (3 * held, held):  # of which half is the hospital's
        monkeypatch.setattr(simulated_run, "room_on", lambda device, room=room: room)
        console = Console(file=io.StringIO(), width=200)
        simulated_run._tell_of_memory(console, config)
        assert isinstance(console.file, io.StringIO)
        lines.append(console.file.getvalue().splitlines())
    assert lines[0] == [
        f"A training step holds {held / 1e9:.1f} GB of a GPU; a hospital has {1.5 * held / 1e9:.1f} GB free"
    ]
    assert "a step does not fit into the GPU's memory: raise machine.gpus_per_site (now 0.5) to 1" in lines[1][1]
    assert "lower training.samples_a_pass (now 0, all of a step's) to 2" in lines[1][1]

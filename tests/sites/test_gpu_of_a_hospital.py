"""A hospital that got a GPU from Ray, which torch may not be able to use."""

import os
from collections.abc import Callable

import pytest
import torch
from flwr.app import MessageType
from scene import NORTH, Scene

MakeScene = Callable[..., Scene]


def test_a_hospital_whose_gpu_torch_cannot_use_computes_on_the_cpu_and_its_log_says_so_once(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    scene = make_scene({"north": NORTH}, method="fine-tune", **{"training.steps_per_stage": 2})
    on_cpu = scene.order("north", MessageType.TRAIN)
    assert not (scene.records("north") / "hospital.log").exists() or "GPU" not in scene.log("north")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    given = [scene.order("north", MessageType.TRAIN, **{"machine.gpus_per_site": 0.5}) for _ in range(2)]
    assert [reply.content for reply in given] == [on_cpu.content] * 2
    assert scene.log("north").count("WARNING has a GPU by its settings, but torch") == 1

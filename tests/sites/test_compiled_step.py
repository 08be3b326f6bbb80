"""Steps compiled by torch. Its C++ code would take minutes to compile, so the tests stop before it: graphs and their
gradients are traced and run by PyTorch's own kernels."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from students import lively_student
from torch._dynamo.utils import counters
from torch._inductor import config as compiler

from fedserdiff.compilation import as_asked
from fedserdiff.settings.groups import Machine
from fedserdiff.settings.sources import make_settings
from fedserdiff.threads import use_cpus
from sites.hospital import Hospital
from sites.training import Order, run_round

COMMAND = "from fedserdiff.commands.main import app; app()"


@pytest.mark.usefixtures("one_cpu_afterwards")
def test_rounds_of_compiled_steps_are_those_of_others_and_compile_once(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coarse network's losses are one graph, the refiner's two: every second step perturbs what it sees.

    Each round has a new student, as at work; each step goes in two passes, and the two networks are in two threads.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    use_cpus(2)
    found = {}
    for compiled in (True, False):
        torch.compiler.reset()
        counters.clear()
        changes = {"network.precision": "fp32", "machine.compile": compiled, "training.samples_a_pass": 2}
        config = make_settings("smoke", changes, method="fine-tune")
        student = lively_student(config)
        losses = []
        for number in (1, 2):
            received, student = student, lively_student(config)
            student.load_state_dict(received.state_dict())
            losses.append(run_round(student, Order(1, number), hospital, lambda site: hospital, config).losses)
        found[compiled] = losses
        assert counters["stats"]["unique_graphs"] == (3 if compiled else 0)
        assert not counters["graph_break"]
    torch.testing.assert_close(found[True], found[False], atol=1e-4, rtol=1e-4)  # the second of what the first learnt


@pytest.mark.parametrize("repeatable", [False, True])
def test_the_compiler_is_told_whether_sums_are_to_repeat(repeatable: bool) -> None:
    with compiler.patch(deterministic=not repeatable):
        as_asked(torch.sin, Machine(compile=True, repeatable=repeatable))
        assert compiler.deterministic == torch.are_deterministic_algorithms_enabled() == repeatable


def test_a_run_that_is_to_compile_without_a_compiler_ends_before_anything_is_prepared(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", COMMAND, "simulate", "--profile", "smoke", "--set", "machine.compile=true"],
        env={**os.environ, "CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "made"), "COLUMNS": "300"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert told.returncode == 1
    assert "error: machine.compile: torch cannot compile here" in told.stderr
    assert "/nowhere/g++" in told.stderr
    assert "install g++" in told.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"made"}

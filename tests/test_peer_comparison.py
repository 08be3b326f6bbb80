"""The comparison with common peers: windows, FLOPs, extrapolation, budgets, and a process for each."""

import importlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner

from fedserdiff.data.cache import cached_cases
from fedserdiff.data.cases import find_cases
from fedserdiff.data.phantom.generate import write_phantom_hospital
from fedserdiff.data.releases import get_release
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.errors import FedSerDiffError
from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.federation import phantom_federation
from fedserdiff.settings.sources import make_settings
from sites.evaluation import score_case
from sites.hospital import open_hospital
from sites.training import Order, run_round

ROOT = Path(__file__).parents[1]
Scripts = Callable[[str], ModuleType]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scripts:
    """Import a module of ``scripts/``, to be run in an empty working directory."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.chdir(tmp_path)
    return importlib.import_module


@pytest.mark.parametrize(
    ("roi", "shape", "starts"),
    [
        (96, (96, 96, 96), [[0], [0], [0]]),
        (96, (97, 144, 145), [[0, 1], [0, 48], [0, 48, 49]]),
        (96, (140, 170, 140), [[0, 44], [0, 48, 74], [0, 44]]),
        (96, (240, 240, 155), [[0, 48, 96, 144], [0, 48, 96, 144], [0, 48, 59]]),
        (96, (20, 96, 100), [[0], [0], [0, 4]]),  # padded, as a box smaller than its window is
        (128, (140, 170, 128), [[0, 12], [0, 42], [0]]),
        (128, (240, 240, 155), [[0, 64, 112], [0, 64, 112], [0, 27]]),
    ],
)
def test_windows_lie_where_half_an_overlap_puts_them(
    script: Scripts, roi: int, shape: tuple[int, ...], starts: list[list[int]]
) -> None:
    windows = script("benchmarks.peer_networks").sliding_windows(shape, roi)
    expected = [(x, y, z) for x in starts[0] for y in starts[1] for z in starts[2]]
    assert sorted(tuple(s.start for s in window) for window in windows) == expected
    assert all(s.stop - s.start == roi for window in windows for s in window)
    of_nnunet = math.prod(math.ceil((max(n, roi) - roi) / (roi / 2)) + 1 for n in shape)
    assert len(windows) == of_nnunet


@pytest.mark.parametrize("name", ["diff-unet", "monai-diffusion", "nnunet", "segresnet"])
def test_peers_map_a_window_to_three_masks(script: Scripts, name: str) -> None:
    if name == "nnunet":
        pytest.importorskip("dynamic_network_architectures")
    peer = script("benchmarks.peer_networks").PEERS[name]
    with FakeTensorMode(), torch.no_grad():
        for edge in (peer.least, peer.roi):
            window = torch.zeros(1, peer.channels, *(edge,) * 3)
            assert peer.network()(window).shape == (1, 3, *(edge,) * 3)
        if peer.encoder:
            assert peer.encoder()(window[:, :4]).shape == (1, 512, 6, 6, 6)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_wider_coarse_network_costs_what_the_refined_prediction_costs(script: Scripts, dims: int) -> None:
    module = script("benchmarks.enlarged_coarse")
    config = make_settings("smoke", {"data.spatial_dims": dims, "scoring.sampling_steps": 4})
    coarse, refined = module.coarse_flops(config), module.refined_flops(config)
    one, two = (module.refined_flops(config.replace({"scoring.sampling_steps": steps})) for steps in (1, 2))
    assert refined - one == 3 * (two - one), "what does not change from step to step is computed once"
    assert coarse < one < coarse + 1.5 * (two - one)

    enlarged = module.enlarged_coarse(config)
    assert all(c % 8 == 0 for c in enlarged.network.coarse_channels)
    assert enlarged.network.coarse_channels[0] > config.network.coarse_channels[0]
    assert module.coarse_flops(enlarged) == pytest.approx(refined, rel=0.2)  # features of 8 are coarse at this size


def measurement(script: Scripts, method: str, **changes: int) -> tuple[ModuleType, object]:
    benchmark = script("benchmarks.inference")
    config = make_settings("smoke", {"network.precision": "fp32"})
    folder = write_phantom_hospital(Path("phantom"), "contrast", 0, 1, config.data.spacing_mm, 0)
    case = find_cases(folder, get_release("brats2020"))[0]
    settings = {"threads": 1, "windows": 2, "repeats": 3, **changes}
    return benchmark, benchmark.Measurement(method, case, "brats2020", config, **settings)


def test_own_flops_are_those_of_the_slices_that_show_brain(script: Scripts) -> None:
    benchmark, task = measurement(script, "refined-all")
    cost = benchmark.measure(task)
    case = cached_cases([task.case], task.config.data.grid, task.config.data.spacing_mm, Path("c"))[0]
    occupied = int(np.any(case.prepared.image != 0, axis=(0, 1, 2)).sum())
    counts = script("benchmarks.enlarged_coarse")
    assert cost.flops == occupied * counts.refined_flops(task.config)
    assert (len(cost.timed), cost.seconds) == (3, statistics.median(cost.timed))
    assert not cost.extrapolated
    coarse = benchmark.measure(measurement(script, "coarse")[1])
    assert coarse.flops == occupied * counts.coarse_flops(task.config)


def test_a_peer_is_extrapolated_from_the_windows_that_were_timed(
    script: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = script("benchmarks.peer_networks")
    tiny = peers.Peer("tiny", "", 8, 8, 40, 7, lambda: nn.Conv3d(7, 3, 3, padding=1), lambda: nn.Conv3d(4, 1, 1))
    monkeypatch.setitem(peers.PEERS, "tiny", tiny)
    benchmark, task = measurement(script, "tiny")
    cost = benchmark.measure(task)
    geometry = cached_cases([task.case], task.config.data.grid, 8.0, Path("c"))[0].prepared.geometry
    windows, whole = (
        math.prod(math.ceil(max(n - 8, 0) / 4) + 1 for n in shape) for shape in (geometry.inner_shape, geometry.shape)
    )
    assert (cost.windows, cost.passes, len(cost.timed), cost.extrapolated) == (windows, 40, 2, True)
    each = 40 * statistics.median(cost.timed) + cost.encoding_s
    assert cost.seconds == pytest.approx(windows * each)
    assert cost.whole_s == pytest.approx(whole * each)
    assert cost.flops == windows * (40 * 2 * 27 * 7 * 3 + 2 * 4) * 8**3

    once = peers.Peer("once", "", 8, 8, 1, 4, lambda: nn.Conv3d(4, 3, 1))
    monkeypatch.setitem(peers.PEERS, "once", once)
    every = benchmark.measure(measurement(script, "once", windows=10**6)[1])
    assert (len(every.timed), every.extrapolated) == (windows, False)


def test_ratios_compare_at_equal_precision(script: Scripts) -> None:
    seconds = {("refined", "fp32"): 4.0, ("refined", "bf16"): 2.0, ("nnunet", "fp32"): 40.0, ("nnunet", "bf16"): 30.0}
    rows = [{"method": m, "precision": p, "seconds": s} for (m, p), s in seconds.items()]
    (only,) = script("benchmarks.inference").ratios(rows)
    assert only == {"own": "refined", "peer": "nnunet", "fp32": 10.0, "bf16": 15.0}


def test_a_missing_package_is_told_before_anything_is_timed(script: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures.architectures.unet", None)
    answer = CliRunner().invoke(script("benchmark").app, ["inference", "--only", "refined,nnunet", "--out", "x.json"])
    assert answer.exit_code == 1
    assert "pip install 'fedserdiff[benchmark]'" in answer.stderr
    assert not list(Path().iterdir())


def test_a_process_of_its_own_has_a_peak_of_its_own(script: Scripts) -> None:
    run_apart = script("benchmarks.separate_process").run_apart
    answer, large = run_apart(eval, "len(b'x' * (300 << 20))", "large", 60)
    assert answer == 300 << 20
    small = run_apart(eval, "len(b'x')", "small", 60)[1]
    assert large - small > 250
    with pytest.raises(FedSerDiffError, match="gone: its process ended without an answer"):
        run_apart(os._exit, 3, "gone", 60)
    with pytest.raises(FedSerDiffError, match=r"late: no answer within 0\.5 s"):
        run_apart(time.sleep, 60, "late", 0.5)


def test_accuracy_of_the_same_training_budget(script: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script("benchmarks.accuracy"), "_OTHERS", 2)
    answer = CliRunner().invoke(
        script("benchmark").app, ["accuracy", "--profile", "smoke", "--seeds", "5", "--out", "a.json"]
    )
    assert answer.exit_code == 0, answer.output
    report = json.loads(Path("a.json").read_text())
    assert report["cases a seed"] == {"test": [1], "others": [3]}
    refined, coarse, alone, enlarged, shorter = report["rows"]

    config = make_settings("smoke", method="fine-tune", seed=5)
    hospital = open_hospital(phantom_federation(1, config, Path("phantom"))[0], config, Path("cases"))
    student = new_student(config)
    for server_round in range(1, config.training.rounds + 1):
        before = {name: weight.clone() for name, weight in student.state_dict().items()}
        run_round(student, Order(1, server_round), hospital, lambda site: hospital, config)
        after = student.state_dict()  # what a round changes crosses the wire as float16
        student.load_state_dict({name: w + (after[name] - w).half().float() for name, w in before.items()})
    scores = score_case(student, hospital.test[0], config)
    for row, mask in ((refined, "refined"), (coarse, "coarse")):
        for metric in ("dice", "hd95"):
            assert row["mean"]["test"][metric] == pytest.approx(mean_over_regions(scores, mask, metric))
    assert coarse["cases"]["5"]["others"] != refined["cases"]["5"]["others"]
    assert refined["training_cpu_s"] == coarse["training_cpu_s"]

    assert refined["steps"] == enlarged["steps"] == config.training.steps_per_stage
    assert alone["coarse_channels"] == coarse["coarse_channels"] == list(config.network.coarse_channels)
    assert enlarged["coarse_channels"] == shorter["coarse_channels"] > list(config.network.coarse_channels)
    assert enlarged["item_flops"] == pytest.approx(refined["item_flops"], rel=0.2)
    difference = refined["mean"]["others"]["dice"] - shorter["mean"]["others"]["dice"]
    assert shorter["refined_minus"]["others"]["dice"]["value"] == pytest.approx(difference)

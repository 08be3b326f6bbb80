"""The choice of device, the message about an unused GPU, and what makes a GPU repeat its results."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fedserdiff.commands import compare, hospital, simulate
from fedserdiff.deployment.provisioning import provision
from fedserdiff.device import settle_gpus, unusable_gpu, use_device
from fedserdiff.errors import ConfigError
from fedserdiff.federation import phantom_federation
from fedserdiff.settings.groups import Machine
from fedserdiff.settings.sources import make_settings

WHY = f"torch {torch.__version__} can use none: "
DRIVER = (
    '#!/bin/sh\ncase "$*" in *--query-gpu=name*) echo "NVIDIA H100 80GB HBM3"; echo "NVIDIA H100 80GB HBM3";; esac\n'
)


@pytest.fixture(autouse=True)
def torch_without_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on which torch can use no GPU, as this one may be, and no driver sees any."""

    def none() -> None:
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", none)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def driver(tmp_path: Path) -> None:
    """A driver that sees two GPUs."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text(DRIVER)
    program.chmod(0o755)


def test_where_nobody_asks_and_there_is_no_gpu_nothing_is_said() -> None:
    if any(Path("/dev").glob("nvidia[0-9]*")) or Path("/proc/driver/nvidia/gpus").exists():
        pytest.skip("this machine has a GPU")
    told: list[str] = []
    assert settle_gpus(None, "--gpus-per-site", told.append) == 0
    assert told == []


@pytest.mark.usefixtures("driver")
def test_a_gpu_that_its_driver_sees_and_torch_cannot_use_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    assert settle_gpus(None, "--gpus-per-site", told.append) == 0
    (line,) = told
    assert line.startswith(f"this machine has a GPU (NVIDIA H100 80GB HBM3), but {WHY}Torch not compiled with CUDA")
    assert line.endswith("everything is computed on the CPU")
    assert settle_gpus(0, "--gpus-per-site", told.append) == 0, "nobody asked for one, so there is nothing to say"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert unusable_gpu() is None, "it is hidden on purpose"
    assert len(told) == 1


def test_a_driver_that_fails_or_hangs_keeps_nobody(tmp_path: Path, driver: None) -> None:
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho Failed to initialize NVML\nexit 9\n")
    assert "NVML" not in str(unusable_gpu())


@pytest.mark.parametrize("asked", [1, 0.5])
def test_a_gpu_that_is_asked_for_and_not_there_is_an_error(asked: float, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=rf"^--gpus-per-site: {asked} requested, but torch .* can use none: Torch not"
    ):
        settle_gpus(asked, "--gpus-per-site", pytest.fail)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(ConfigError, match=r"\(CUDA_VISIBLE_DEVICES='-1' hides them\)"):
        settle_gpus(asked, "--gpus-per-site", pytest.fail)


@pytest.mark.parametrize("command", [simulate.app, compare.app], ids=["simulate", "compare"])
def test_commands_refuse_a_gpu_that_torch_cannot_use_before_anything_is_prepared(command: Any, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["--profile", "smoke", "--gpus-per-site", "1"])
    assert done.exit_code == 1
    assert f"error: --gpus-per-site: 1 requested, but {WHY}Torch not compiled with CUDA enabled" in done.output
    assert {path.name for path in tmp_path.iterdir()} == {"bin"}


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """The folder of a phantom hospital."""
    sites = phantom_federation(1, make_settings("smoke", {"data.phantom_patients": 2}), tmp_path / "phantom")
    provision(tmp_path / "federation", make_settings("smoke", sites=sites), "localhost:9", {})
    return tmp_path / "federation" / "sites" / "site-1"


def test_a_hospital_that_is_to_train_on_a_gpu_says_so_where_it_cannot(kit: Path) -> None:
    with (kit / "site.toml").open("r+") as file:
        text = file.read()
        file.seek(0)
        file.write(f"gpus = 1\n{text}")
    done = CliRunner().invoke(hospital.app, [str(kit)])
    assert done.exit_code == 1
    assert f"error: site.toml: gpus: 1 requested, but {WHY}" in done.output
    assert not (kit / "cache").exists()


def test_a_hospital_says_of_a_gpu_that_it_does_not_use(
    kit: Path, driver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(*rest: object) -> None:
        raise ConfigError("as far as this test goes")

    monkeypatch.setattr("fedserdiff.experiments.served_hospital.open_hospital", stops)
    done = CliRunner().invoke(hospital.app, [str(kit)])
    assert done.output.startswith("this machine has a GPU (NVIDIA H100 80GB HBM3), but torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    done = CliRunner().invoke(hospital.app, [str(kit)])
    assert done.output.startswith(
        "this machine has a GPU but does not train on it; set gpus = 1 in site.toml to use it"
    )


@pytest.mark.usefixtures("driver")
def test_the_first_line_of_a_run_says_that_it_will_not_use_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(*rest: object) -> None:
        raise ConfigError("as far as this test goes")

    monkeypatch.setattr("fedserdiff.experiments.simulated_run.open_named", stops)
    done = CliRunner().invoke(simulate.app, ["--profile", "smoke"], env={"COLUMNS": "300"})
    assert done.output.startswith("this machine has a GPU (NVIDIA H100 80GB HBM3), but torch")


def test_what_makes_a_gpu_repeat_is_set_and_a_users_own_value_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.use_deterministic_algorithms(False)
    assert use_device(Machine(gpus_per_site=1)) == torch.device("cpu")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    use_device(Machine(gpus_per_site=0))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_gpu_that_need_not_repeat_chooses_its_kernels_also_after_one_that_had_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for repeatable in (False, True, False):
        use_device(Machine(repeatable=repeatable))
        assert torch.are_deterministic_algorithms_enabled() == repeatable
    use_device(Machine())
    assert torch.are_deterministic_algorithms_enabled(), "by default sums repeat"


def test_whoever_has_a_gpu_and_wants_it_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert settle_gpus(None, "--gpus-per-site", pytest.fail) == 1
    assert settle_gpus(0.5, "--gpus-per-site", pytest.fail) == 0.5
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    for gpus in (0.5, 2, 1):
        assert use_device(Machine(gpus_per_site=gpus)) == torch.device("cuda")
    assert shares == [0.5, 1, 1], "of the GPU's memory"
    assert use_device(Machine(gpus_per_site=0)) == torch.device("cpu")
    assert len(shares) == 3

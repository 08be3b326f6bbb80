"""What ``--plan`` says about an experiment, compared with the experiment itself."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fedserdiff.commands import compare, simulate
from fedserdiff.experiments import plan
from fedserdiff.experiments.opened_federation import Cache, open_federation
from fedserdiff.federation import phantom_federation
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from sites.sampling import Sampling
from sites.training_set import TrainingSet


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times and memory that nobody has to wait for."""
    monkeypatch.setattr(plan, "step_memory", lambda config, stage: 10**6)
    monkeypatch.setattr(plan, "_timed", lambda config, device: (2.0, 3.0, 5.0))


def planned(config: Settings, count: int = 3) -> plan.Plan:
    sites, cases = plan.sites_of(None, count, config)
    return plan.make_plan(config, sites, cases)


def test_counts_are_those_of_the_run_and_disk_is_no_less_than_it_takes(quick: None, tmp_path: Path) -> None:
    config = make_settings("smoke", {"data.phantom_patients": 4})
    found = planned(config, 2)
    cache = Cache(tmp_path)
    opened = open_federation(config, phantom_federation(2, config, cache.phantoms), cache.prepared)
    assert [(one.training, one.test) for one in found.cases] == [
        (len(h.training), len(h.test)) for h in opened.hospitals
    ]
    kept = sum(file.stat().st_size for file in cache.prepared.rglob("*.cases"))
    assert kept <= found.disk < 4 * kept
    assert found.steps == (config.training.steps_per_stage,) * 2
    assert found.scored == 3 * sum(len(h.test) for h in opened.hospitals), "rows 0, 1 and 2"


@pytest.mark.parametrize(("scored", "stream"), [("test", "contrast"), ("validation", "patients")])
def test_counts_with_validation_patients_are_those_of_the_run(
    quick: None, tmp_path: Path, scored: str, stream: str
) -> None:
    chosen = {"data.phantom_patients": 6, "data.validation_share": 0.4, "scoring.patients": scored}
    config = make_settings("smoke", {**chosen, "data.phantom_stream": stream})
    found = planned(config, 2)
    opened = open_federation(config, phantom_federation(2, config, tmp_path), tmp_path / "cache")
    assert [(one.training, one.validation, one.test) for one in found.cases] == [
        (len(h.training), len(h.validation), len(h.test)) for h in opened.hospitals
    ]
    assert found.scored == 3 * sum(len(h.scored(config)) for h in opened.hospitals)
    assert found.cases[0].usable == len(opened.hospitals[0].cases)


@pytest.mark.parametrize("dims", [2, 3])
def test_epochs_are_no_more_steps_than_they_are_said_to_be(quick: None, tmp_path: Path, dims: int) -> None:
    changes: dict[str, Any] = {"training.epochs_per_stage": 3, "training.steps_per_stage": 0, "data.spatial_dims": dims}
    config = make_settings("smoke", changes)
    (site,) = phantom_federation(1, config, tmp_path)
    (hospital,) = open_federation(config, (site,), tmp_path / "cache").hospitals
    steps = Sampling(TrainingSet(hospital.training, config, torch.device("cpu")), config, "any").steps
    (said,) = planned(config, 1).steps
    assert steps <= said <= 4 * steps


def test_time_is_that_of_steps_and_of_scoring_side_by_side(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    found = planned(make_settings("smoke", {"training.steps_per_stage": 7, "training.rounds": 1}))
    assert (found.scored, found.first_stage_s) == (12, 14)
    assert found.seconds == 7 * 2 + 14 * 3 + 12 * 5 / 2
    alone = replace(found, config=found.config.replace({"machine.cpus_per_site": 2.0}))
    assert alone.seconds == 7 * 2 + 14 * 3 + 12 * 5


def test_hospitals_of_a_round_wait_for_each_other_where_cpus_are_few(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three hospitals on two CPUs take two turns, two of them one; each scores two rows of R."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    config = make_settings("smoke", {"training.steps_per_stage": 7}, method="fedavg")
    found = planned(config)
    assert (found.steps, found.participants, found.scored) == ((7,), (3,), 6)
    assert found.seconds == 2 * 7 * 2 + 6 * 5 / 2
    some = planned(config.replace({"aggregation.fraction_train": 0.6}))
    assert (some.participants, some.seconds) == ((2,), 7 * 2 + 6 * 5 / 2)


@pytest.mark.parametrize("method", ["ser-diff-plus", "image-replay+ewc", "pooled"])
def test_steps_of_every_kind_of_method_are_timed(method: str) -> None:
    found = planned(make_settings("smoke", method=method), 2)
    assert min(found.first_s, found.step_s, found.score_s) > 0
    assert found.memory > 10**8


def test_hospitals_of_a_file_are_counted_and_bad_cases_with_them(
    quick: None, tmp_path: Path, write_case: Callable[..., Path], draw_volumes: Callable[..., Any]
) -> None:
    for number in range(5):
        write_case(tmp_path / "scans", draw_volumes(seed=number), "brats2021", name=f"BraTS2021_0000{number}")
    next((tmp_path / "scans" / "BraTS2021_00003").glob("*_t1.nii*")).unlink()
    sites, cases = plan.sites_of((Site("north", "brats2021", str(tmp_path / "scans")),), 3, make_settings("smoke"))
    assert [site.name for site in sites] == ["north"]
    assert cases == [plan.Cases(4, 3, 1, bad=1)]


def told(app: Any, *arguments: str) -> tuple[int, str]:
    answer = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["--profile", "smoke", *arguments])
    return answer.exit_code, " ".join((answer.output + answer.stderr).split())


def test_nothing_is_prepared_or_written(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = told(simulate.app, "--sites", "2", "--plan")
    assert code == 0
    assert "lesion-replay │ 2 │ 8 │ 6 │ 2, 3 │ 5 │" in said
    assert "Nothing was prepared or written." in said
    assert "validation" not in said
    assert list(tmp_path.iterdir()) == []
    _, said = told(simulate.app, "--sites", "1", "--set", "data.validation_share=0.3", "--plan")
    assert "training cases ┃ validation cases ┃ test cases" in said
    assert "site-1 │ 4 │ 2 │ 1 │ 1 │ 0 │" in said
    code, said = told(simulate.app, "--resume", "run", "--plan")
    assert (code, "--plan: cannot plan a run that has begun; leave --resume out" in said) == (1, True)


def test_a_step_that_does_not_fit_the_memory_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end the plan, or all else on the machine."""
    monkeypatch.setattr(plan, "room_on", lambda device: 10**5)
    code, said = told(simulate.app, "--sites", "2", "--plan")
    assert code == 0
    assert "lesion-replay │ 2 │ 8 │ 6 │ not timed │ not timed │ not timed │" in said
    assert (
        "1 run, 1 at a time: not timed, because a training step needs more memory than this machine has free." in said
    )
    assert "Prepared cases take at most" in said
    assert "On a GPU a training step holds" in said


def test_a_comparison_shares_stage_1(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    methods = (
        "--methods",
        "ser-diff,ewc,pooled",
        "--seeds",
        "0,1",
        "--parallel",
        "1",
        "--set",
        "training.steps_per_stage=60",
    )
    code, said = told(compare.app, *methods, "--plan")
    assert code == 0
    ser_diff = 60 * 2 + 120 * 3 + 12 * 5
    pooled = 180 * 2 + 6 * 5
    assert f"6 runs, 1 at a time: about {2 * (2 * ser_diff - 120 + pooled) / 60:.0f} min of training" in said
    code, said = told(compare.app, "--study", "lambda", "--plan")
    assert (code, "leave --study out" in said) == (1, True)

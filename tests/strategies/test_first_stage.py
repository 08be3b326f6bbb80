import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedserdiff.diffusion.refiner import new_student
from fedserdiff.errors import ConfigError
from fedserdiff.methods import METHODS
from fedserdiff.methods.method import NoSettings
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import load_weights
from strategies.first_stage import FirstStage, begins_with_first_stage
from strategies.results import Results
from strategies.run_directory import RunDirectory

SITES = tuple(Site(name, "brats2021", f"/scans/{name}", (f"{name}-1", f"{name}-2")) for name in ("north", "west"))
BRATS_REGIONS = ("tc", "wt", "et")
SCANS = {"north": "a", "west": "b"}


def smoke(**changes: Any) -> Settings:
    return make_settings("smoke", {"sites": SITES, **changes})


def scores(stage: int) -> dict[str, dict[str, float]]:
    """Two sites' scores, each value another: a third is no short decimal."""
    return {
        site: {
            f"{mask}.{metric}.{region}": stage + 0.1 * place + (0.01 * number + (mask == "refined")) / 3
            for mask in ("coarse", "refined")
            for number, (metric, region) in enumerate((m, r) for m in ("dice", "hd95") for r in BRATS_REGIONS)
        }
        for place, site in enumerate(("north", "west"))
    }


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The directory of a run that ended after stage 1."""
    config = smoke().of_first_stage()
    run = RunDirectory.new(tmp_path / "first")
    run.write_config(config, {"name": "ours.toml", "overlap": {}, "scans": SCANS})
    cases = {site: {"training": 1, "test": 1} for site in ("north", "west")}
    results = Results("fine-tune", 0, ["north", "west"], [2, 2], cases)
    results.stages = ["untrained", "north"]
    results.rows = [scores(0), scores(1)]
    results.losses = [{"segmentation": 1 / 3}]
    results.bytes_out = {"north": {"arrays": 5, "site": 2}, "west": {"site": 3}}
    results.bytes_in = {"north": {"arrays": 7}, "west": {}}
    results.seconds = {"discovery": 9.0, "evaluation 0": 1.5, "stage 1": 2.5, "evaluation 1": 3.5, "start": 8.0}
    run.write_results(results)
    run.write_weights("student", new_student(config.replace(seed=4)).state_dict())
    return run.path


@pytest.mark.parametrize("method", METHODS)
def test_every_method_begins_with_the_first_site_alone_but_pooling_and_those_of_all_together(method: str) -> None:
    for participation in ("arriving", "cumulative"):
        config = smoke(method=method, **{"training.participation": participation})
        assert begins_with_first_stage(config) == (
            method != "pooled" and not method.startswith("fed") and method != "scaffold"
        )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "fine-tune"},
        {"method": "local"},
        {"method": "rehearsal", "method.share": 0.5},
        {"method": "ewc", "method.weight": 3.0},
        {"method": "image-replay", "replay.shared_maps": 9, "method.lambda_kd": 0.3},
        {
            "method": "ser-diff",
            "method.teacher": "latest",
            "training.participation": "cumulative",
            "method.shared_error_maps": "mri",
            "replay.map_noise": 0.2,
        },
        {"aggregation.inertia": 0.5},
        {"method.gamma": 0.0, "replay.batch_size": 0, "replay.conditional_maps": 3},
    ],
    ids=str,
)
def test_a_first_stage_is_shared_by_whatever_differs_in_later_stages_only(first: Path, changes: dict[str, Any]) -> None:
    shared = FirstStage.load(first, smoke(**changes), SCANS)
    assert shared.rows == (scores(0), scores(1))
    assert shared.losses == {"segmentation": 1 / 3}
    assert shared.seconds == {"evaluation 0": 1.5, "stage 1": 2.5, "evaluation 1": 3.5}
    assert shared.bytes_out == {"north": {"arrays": 5, "site": 2}, "west": {"site": 3}}
    assert shared.bytes_in == {"north": {"arrays": 7}, "west": {}}
    student = new_student(smoke())
    load_weights(student, shared.arrays)
    expected = new_student(smoke(seed=4)).state_dict()
    assert all(torch.equal(values, expected[name]) for name, values in student.state_dict().items())


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "pooled"},
        {"seed": 1},
        {"training.rounds": 1},
        {"training.steps_per_stage": 5},
        {"training.learning_rate": 1e-3},
        {"network.precision": "fp32"},
        {"scoring.sampling_steps": 3},
        {"data.test_share": 0.4},
        {"data.validation_share": 0.2},
        {"scoring.patients": "validation"},
        {"network.coarse_channels": (8, 8)},
        {"sites": SITES[::-1]},
        {"sites": SITES[:1]},
        {"sites": (SITES[0], Site("west", "brats2021", "/scans/west", ("west-1",)))},
        {"sites": (Site("north", "brats2021", "/scans/north", ("north-1", "north-2"), ("north-1",)), SITES[1])},
    ],
    ids=str,
)
def test_a_first_stage_of_another_experiment_is_refused(first: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"its stage 1 is not that of this .* run"):
        FirstStage.load(first, smoke(**changes), SCANS)


def test_a_first_stage_of_other_scans_is_refused(first: Path) -> None:
    """Names, cases and settings are the same: only the voxels of one hospital are not."""
    with pytest.raises(ConfigError, match="scans or segmentations of west have changed"):
        FirstStage.load(first, smoke(), {"north": "a", "west": "rolled"})


def test_a_first_stage_is_shared_wherever_it_ran_and_wherever_scans_lie(first: Path) -> None:
    moved = tuple(Site(site.name, site.release, f"/elsewhere/{site.name}", site.cases) for site in SITES)
    elsewhere = smoke(
        sites=moved,
        **{
            "machine.cpus_per_site": 2,
            "machine.gpus_per_site": 1,
            "machine.stage_timeout_s": 60.0,
            "machine.retries": 0,
        },
    )
    assert FirstStage.load(first, elsewhere, SCANS).rows == (scores(0), scores(1))


def test_a_run_that_did_more_than_a_first_stage_is_none(first: Path) -> None:
    about = json.loads((first / "config.json").read_text())
    (first / "config.json").write_text(json.dumps({**about, "method": {"name": "ser-diff"}}))
    with pytest.raises(ConfigError, match="its stage 1 is not that of this lesion-replay run"):
        FirstStage.load(first, smoke(), SCANS)


def test_what_the_first_stage_does_not_depend_on_is_at_its_default() -> None:
    config = smoke(
        method="ewc",
        seed=3,
        **{"method.weight": 3.0, "replay.map_noise": 0.5, "training.learning_rate": 0.1},
    )
    first = config.of_first_stage()
    default = Settings()
    assert first.method == NoSettings(name="fine-tune")
    assert first.replay == default.replay
    assert (first.seed, first.training.learning_rate, first.sites) == (3, 0.1, SITES)
    assert first.of_first_stage() == first


def test_a_first_stage_that_was_scored_in_part_is_gone_on_from_with_what_was_scored(first: Path) -> None:
    partly = {"evaluate_every": 2, "evaluate_sites": 1}
    about = json.loads((first / "config.json").read_text())
    (first / "config.json").write_text(json.dumps({**about, "scoring": {**about["scoring"], **partly}}))
    results = json.loads((first / "results.json").read_text())
    for key in ("R", "R_coarse"):
        for by_region in results[key].values():
            for matrix in by_region.values():
                matrix[0][1] = None
    (first / "results.json").write_text(json.dumps(results))
    with pytest.raises(ConfigError, match="its stage 1 is not that"):
        FirstStage.load(first, smoke(), SCANS)
    shared = FirstStage.load(first, smoke(**{f"scoring.{name}": value for name, value in partly.items()}), SCANS)
    assert shared.rows == ({"north": scores(0)["north"]}, scores(1))

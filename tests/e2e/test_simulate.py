import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedserdiff.diffusion.refiner import Student
from fedserdiff.settings.experiment import Settings

ROOT = Path(__file__).parents[2]
Run = Callable[..., dict[str, Any]]
BRATS_REGIONS = ("tc", "wt", "et")


def test_results_hold_every_score_of_every_stage_and_site(ser_diff: dict[str, Any]) -> None:
    assert ser_diff["method"] == "ser-diff"
    assert ser_diff["seed"] == 0
    assert ser_diff["sites"] == ["site-1", "site-2", "site-3"]
    assert ser_diff["deployed"] == [3, 3, 3]
    trained = {site: numbers["training"] for site, numbers in ser_diff["cases"].items()}
    assert trained == {"site-1": 3, "site-2": 2, "site-3": 2}, "the first hospital is the largest"
    assert all(numbers["test"] == 1 for numbers in ser_diff["cases"].values())
    for matrix in ("R", "R_coarse"):
        for metric, most in (("dice", 1.0), ("hd95", 400.0)):
            for key in ("mean", *BRATS_REGIONS):
                values = np.array(ser_diff[matrix][metric][key])
                assert values.shape == (4, 3)
                assert bool(((values >= 0) & (values <= most)).all())
            by_region = np.mean([ser_diff[matrix][metric][region] for region in BRATS_REGIONS], axis=0)
            assert np.allclose(by_region, ser_diff[matrix][metric]["mean"])


def test_tensorboard_shows_the_losses_and_scores_of_the_results(ser_diff: dict[str, Any], workplace: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(workplace / "ser-diff" / "tensorboard"))
    shown.Reload()
    assert not shown.Tags()["images"]
    for metric in ("dice", "hd95"):
        for key in ("mean", "tc", "wt", "et"):
            for place, site in enumerate(ser_diff["sites"]):
                values = [event.value for event in shown.Scalars(f"R.{metric}.{key}/{site}")]
                assert values == pytest.approx([row[place] for row in ser_diff["R"][metric][key]])
    losses = {event.step: event.value for event in shown.Scalars("loss/segmentation")}
    assert list(losses) == [1, 2, 3, 4, 5, 6]
    last_of_stages = [losses[step] for step in (2, 4, 6)]
    assert last_of_stages == pytest.approx([losses["segmentation"] for losses in ser_diff["losses"]])
    (bwt,) = shown.Scalars("stream/bwt.dice")
    assert (bwt.step, bwt.value) == (3, pytest.approx(ser_diff["bwt"]["dice"]["mean"]))


def test_stream_scores_follow_from_the_matrix_that_stands_beside_them(ser_diff: dict[str, Any]) -> None:
    for metric, sign in (("dice", 1), ("hd95", -1)):
        for key in ("mean", *BRATS_REGIONS):
            r = sign * np.array(ser_diff["R"][metric][key])
            assert ser_diff["bwt"][metric][key] == pytest.approx(np.mean([r[3, j] - r[j + 1, j] for j in (0, 1)]))
            assert ser_diff["fwt"][metric][key] == pytest.approx(np.mean([r[j, j] - r[0, j] for j in (1, 2)]))
            lost = [max(r[:3, j]) - r[3, j] for j in (0, 1)]
            assert ser_diff["forgetting"][metric][key] == pytest.approx(np.mean(lost))
            assert math.isfinite(ser_diff["forgetting_rate"][metric][key])


def test_the_run_directory_repeats_and_restores_the_run(ser_diff: dict[str, Any], workplace: Path) -> None:
    folder = workplace / "ser-diff"
    about = json.loads((folder / "config.json").read_text())
    assert {"flwr", "torch", "monai", "python", "fedserdiff"} <= set(about["provenance"]["versions"])
    config = Settings.from_dict(about)
    assert [site.name for site in config.sites] == ser_diff["sites"]
    assert all(site.cases for site in config.sites)
    Student(config).load_state_dict(torch.load(folder / "student.pt", weights_only=True))
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 3 * 2 * 2 * 3
    one = next(
        float(r["value"])
        for r in rows
        if (r["stage"], r["site"], r["mask"], r["metric"], r["region"]) == ("2", "site-1", "refined", "hd95", "wt")
    )
    assert one == ser_diff["R"]["hd95"]["wt"][2][0]
    assert (folder / "examples.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "volumes.html").read_text()
    assert "ser-diff, seed 0, phantom data, profile smoke, final student after stage 3 of 3" in page
    assert all(f"{site}: " in page for site in ser_diff["sites"])
    assert not list(folder.glob("**/*.partial*"))


def test_every_field_of_the_results_is_explained(ser_diff: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "reference" / "run-directory.md").read_text()
    assert [field for field in ser_diff if f"`{field}`" not in page] == []


def test_what_leaves_a_hospital_is_changes_of_weights_metrics_and_the_teachers_packed_maps(
    ser_diff: dict[str, Any], workplace: Path
) -> None:
    sent = ser_diff["bytes_out"]
    assert set(sent["site-1"]) == {"arrays", "metrics", "error-maps", "site", "scan-hashes"}
    assert set(sent["site-2"]) == {"arrays", "metrics", "site", "scan-hashes"}
    voxels = 4 * 3 * 16 * 24  # shared maps × regions × slice, one byte each
    assert 0 < sent["site-1"]["error-maps"] < voxels / 2
    student = torch.load(workplace / "ser-diff" / "student.pt", weights_only=True)
    weights = sum(value.numel() * 2 for value in student.values())  # float16
    names_and_headers = 400 * len(student)
    assert 2 * weights <= sent["site-2"]["arrays"] < 2 * (weights + names_and_headers)


def test_what_left_is_held_against_the_bytes_of_each_sites_own_scans(ser_diff: dict[str, Any], workplace: Path) -> None:
    config = Settings.from_dict(json.loads((workplace / "ser-diff" / "config.json").read_text()))
    raw = {site.name: sum(file.stat().st_size for file in Path(site.path).glob("*/*.nii*")) for site in config.sites}
    assert ser_diff["raw_nifti_bytes"] == raw


def test_the_teacher_travels_once_to_each_later_site_and_never_to_the_first(ser_diff: dict[str, Any]) -> None:
    received = ser_diff["bytes_in"]
    assert "teacher" not in received["site-1"]
    one_student = received["site-1"]["arrays"] / 7  # four evaluations, two rounds and a consolidation
    assert received["site-2"]["teacher"] == pytest.approx(one_student)
    assert received["site-3"]["teacher"] == pytest.approx(one_student)


def test_losses_show_both_terms_from_the_second_stage_on(ser_diff: dict[str, Any]) -> None:
    assert [sorted(losses) for losses in ser_diff["losses"]] == [
        ["segmentation"],
        ["distillation", "segmentation"],
        ["distillation", "segmentation"],
    ]
    assert all(value > 0 for losses in ser_diff["losses"] for value in losses.values())


def test_another_seed_meets_other_patients_and_weights(ser_diff: dict[str, Any], run: Run) -> None:
    other = run("other-seed", "--sites", "1", "--seed", "1")
    assert other["R"]["hd95"]["mean"][0][0] != ser_diff["R"]["hd95"]["mean"][0][0]


def test_ser_diff_with_lambda_0_is_fine_tuning_to_the_last_digit(fine_tune: dict[str, Any], run: Run) -> None:
    ours = run("ours", "--sites", "2", "--method", "ser-diff", "--lambda", "0")
    assert ours["R"] == fine_tune["R"]
    assert ours["R_coarse"] == fine_tune["R_coarse"]
    assert ours["losses"] == fine_tune["losses"]


def test_pooling_is_one_stage_on_everybodys_cases(pooled: dict[str, Any]) -> None:
    assert pooled["stages"] == ["untrained", "pooled"]
    assert np.array(pooled["R"]["dice"]["mean"]).shape == (2, 2)
    assert pooled["bwt"]["dice"]["mean"] is None
    assert pooled["deployed"] == [1, 1]


def test_cumulative_participation_latest_teacher_and_mri_maps(run: Run) -> None:
    results = run(
        "cumulative", "--sites", "3", "--method", "ser-diff", "--rounds", "1", "--participation", "cumulative",
        "--teacher", "latest", "--shared-error-maps", "mri", "--lambda", "0.5", "--cpus-per-site", "1",
    )  # fmt: skip
    sent = results["bytes_out"]
    assert sent["site-1"]["error-maps"] > sent["site-2"]["error-maps"] > 0, "twice, and once"
    assert "error-maps" not in sent["site-3"], "nothing comes after the last stage"
    received = results["bytes_in"]
    assert received["site-1"]["teacher"] == 2 * received["site-3"]["teacher"]

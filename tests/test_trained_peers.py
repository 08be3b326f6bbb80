"""Training with common peers: folds, minutes, SegResNet's crops, the table's differences, and the command."""

import csv
import importlib
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fedserdiff.commands.options import Chosen
from fedserdiff.data.cache import CachedCase, cached_cases
from fedserdiff.data.cases import find_cases
from fedserdiff.data.preprocess import CaseArrays
from fedserdiff.data.releases import get_release
from fedserdiff.errors import ConfigError
from fedserdiff.federation import phantom_federation
from fedserdiff.settings.sources import make_settings
from sites.hospital import Hospital, open_hospital

Scripts = Callable[[str], ModuleType]
CONFIG = make_settings("smoke", {"data.phantom_stream": "contrast", "data.phantom_patients": 7}, method="fine-tune")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scripts:
    """Import a module of ``scripts/``, to be run in an empty working directory."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    monkeypatch.chdir(tmp_path)
    return importlib.import_module


@pytest.fixture
def hospitals(script: Scripts) -> list[Hospital]:
    return [open_hospital(site, CONFIG, Path("cases")) for site in phantom_federation(2, CONFIG, Path("phantom"))]


def test_every_patient_is_tested_once_and_trains_in_all_other_folds(script: Scripts, hospitals: list[Hospital]) -> None:
    module = script("benchmarks.peers.folds")
    everyone = sorted(c.case.name for hospital in hospitals for c in hospital.cases)
    config = CONFIG.replace({"data.validation_share": 0.2})
    tested: Counter[str] = Counter()
    for fold in range(3):
        together = module.fold_of(hospitals, config, fold, 3)
        assert sorted(c.case.name for c in together.cases) == everyone
        sides = [{c.case.patient for c in side} for side in (together.training, together.validation, together.test)]
        assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
        assert all(len(sides[1] & {c.case.patient for c in hospital.cases}) == 1 for hospital in hospitals)
        tested.update(sides[2])
    assert tested == Counter(
        c.case.patient for hospital in hospitals for c in {c.case.patient: c for c in hospital.cases}.values()
    )
    with pytest.raises(ConfigError, match="site-1 has 7 patients, fewer than 8 folds"):
        module.fold_of(hospitals, CONFIG, 0, 8)
    with pytest.raises(ConfigError, match="two hospitals have a case with this name"):
        module.fold_of([hospitals[0], hospitals[0]], CONFIG, 0, 3)


def test_minutes_are_of_computing_children_included(script: Scripts) -> None:
    budget = script("benchmarks.peers.budget").Budget(1.0, torch.device("cpu"))
    assert budget.left == 1
    time.sleep(1.0)
    assert budget.used_s < 0.9
    before = budget.used_s
    burn = "import time\nwhile time.process_time() < 0.6: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert budget.used_s - before >= 0.5
    assert budget.left == pytest.approx(1 - budget.used_s / 60, abs=0.01)


def test_crops_are_the_tutorials_and_move_image_and_mask_alike(script: Scripts, phantoms: tuple[Path, ...]) -> None:
    module = script("benchmarks.peers.segresnet")
    assert module.crop_of((240, 240, 155)) == (224, 224, 144)
    assert module.crop_of((80, 96, 80)) == (72, 88, 72)
    assert module.crop_of((8, 8, 8)) == (8, 8, 8)

    cases = find_cases(phantoms[0], get_release("brats2020"))
    cached = cached_cases(cases[:1], (16, 24, 16), 8.0, Path("cases"))[0]
    mask = np.random.default_rng(0).integers(0, 2, (3, 16, 24, 16)).astype(np.uint8)
    shown = CaseArrays.showing(cached.prepared, mask.astype(np.float16), mask)
    draws = np.random.default_rng(1)
    made = [module.changed(CachedCase(cached.case, shown), draws, (16, 24, 16)) for _ in range(20)]
    for image, truth in made:
        assert image.shape == truth.shape == (3, *module.crop_of((16, 24, 16)))
        low, high = np.unique(image)
        assert np.array_equal(image == high, truth == 1)
        assert -0.1 <= low <= 0.1
        assert 0.9 <= high - low <= 1.1
    assert len({truth.tobytes() for _, truth in made}) > 10
    again = module.changed(CachedCase(cached.case, shown), np.random.default_rng(1), (16, 24, 16))
    assert np.array_equal(again[0], made[0][0])


def test_segresnet_learns_until_its_minutes_are_over(script: Scripts, hospitals: list[Hospital]) -> None:
    budget = script("benchmarks.peers.budget").Budget(0.03, torch.device("cpu"))
    trained = script("benchmarks.peers.segresnet").train_segresnet(hospitals[0], CONFIG, budget)
    assert trained.iterations >= 2
    assert trained.used_s >= 1.8
    found = trained.predict(hospitals[0].test[0])
    assert found.refined.shape == (3, *CONFIG.data.grid)
    assert 0 <= found.refined.min() <= found.refined.max() <= 1
    assert torch.equal(found.refined, found.coarse)


def row(method: str, fold: int, seed: int, dice: dict[str, list[float]]) -> dict[str, Any]:
    """Return a row whose cases have these Dice of two regions, and HD95 of ten times what is missing to 1."""
    scores = [
        {f"dice.{r}": d for r, d in zip("ab", own, strict=True)}
        | {f"hd95.{r}": 10 * (1 - d) for r, d in zip("ab", own, strict=True)}
        for own in dice.values()
    ]
    return {
        "asked": {"method": method, "fold": fold, "seed": seed},
        "sides": {"test": [{"case": case, "patient": case} for case in dice]},
        "scored": "test",
        "scores": {"refined": scores, **({"coarse": scores} if method == "ours" else {})},
        **dict.fromkeys(("iterations", "minutes", "volume_s", "peak_mib"), 1.0 + fold),
    }


def test_table_pairs_patients(script: Scripts) -> None:
    module = script("benchmarks.peers.table")
    rng = np.random.default_rng(0)
    ours = {f"p{n}": rng.uniform(0.6, 0.9, 2).tolist() for n in range(6)}
    other = {name: [d - 0.1 for d in own] for name, own in ours.items()}
    first, last = list(ours)[:3], list(ours)[3:]
    rows = [row("segresnet", fold, 0, {n: other[n] for n in names}) for fold, names in enumerate((first, last))] + [
        row("ours", fold, 0, {n: ours[n] for n in names}) for fold, names in enumerate((first, last))
    ]
    lines = module.lines_of(rows)
    assert [(line.method, line.mask) for line in lines] == [
        ("ours", "refined"),
        ("ours", "coarse"),
        ("segresnet", "refined"),
    ]
    records = module.summary(lines)
    assert records[0]["dice.b"] == pytest.approx(np.mean([d[1] for d in ours.values()]))
    assert records[0]["hd95"] == pytest.approx(10 * (1 - np.mean(list(ours.values()))))
    assert (records[0]["cases"], records[0]["minutes"], records[0]["folds"]) == (6, 1.5, [0, 1])
    less = records[2]["first_minus"]
    assert (less["dice"]["value"], less["dice"]["low"], less["dice"]["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert less["hd95"]["value"] == pytest.approx(-1)

    part = module.lines_of([rows[2], rows[3], rows[0]])  # the other has one fold: its three patients count
    both = module.difference(part[0], part[2], "dice")
    assert both.value == pytest.approx(0.1)
    assert module.difference(part[0], module.lines_of([row("segresnet", 0, 1, {"p0": [0.5, 0.5]})])[0], "dice") is None


def test_the_command_trains_scores_and_goes_on(script: Scripts, hospitals: list[Hospital]) -> None:
    Path("f.toml").write_text(
        "\n".join(
            f'[[site]]\nname = "{h.site.name}"\nrelease = "{h.site.release}"\npath = "{h.site.path}"' for h in hospitals
        )
    )
    fixed = ["peers", "--federation", "f.toml", "--site", "site-2", "--profile", "smoke", "--fold", "1", "--out", "o"]
    asked = [*fixed, "--methods", "ours", "--minutes", "0.02", "--set", "training.batch_size=2"]
    app, runner = script("benchmark").app, CliRunner()
    answer = runner.invoke(app, asked)
    assert answer.exit_code == 0, answer.output
    assert "ours, as set, refined" in answer.output

    together = script("benchmarks.peers.folds").fold_of([hospitals[1]], CONFIG, 1, 3)
    names = [c.case.name for c in together.test]
    file = Path("o/rows/ours-fold1-seed0.json")
    found = json.loads(file.read_text())
    assert [one["case"] for one in found["sides"]["test"]] == names
    assert found["asked"]["settings"]["training.batch_size"] == 2
    assert found["iterations"] >= 2
    with Path("o/peers.csv").open() as opened:
        table = list(csv.DictReader(opened))
    assert len(table) == 2 * 3 * len(names)
    dice = [float(one["dice"]) for one in table if one["mask"] == "refined"]
    record = json.loads(Path("o/peers.json").read_text())["summary"][0]
    assert record["dice"] == pytest.approx(np.mean(dice), abs=1e-5)
    assert all(math.isfinite(float(one["hd95"])) for one in table)

    written = file.stat().st_mtime_ns
    assert runner.invoke(app, asked).exit_code == 0
    assert file.stat().st_mtime_ns == written
    other = runner.invoke(app, [*asked[:-1], "training.batch_size=4"])
    assert other.exit_code == 1
    assert "has other values of settings" in other.stderr


def test_what_cannot_be_trained_is_told_in_one_line(script: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nnunetv2", None)
    Path("f.toml").write_text('[[site]]\nname = "a"\nrelease = "brats2020"\npath = "nowhere"\n')
    app, runner = script("benchmark").app, CliRunner()
    fixed = ["peers", "--federation", "f.toml", "--out", "o"]
    answer = runner.invoke(app, [*fixed, "--methods", "ours,nnunet-2d"])
    assert answer.exit_code == 1
    assert "nnU-Net is not installed: pip install 'fedserdiff[peers]'" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    answer = runner.invoke(app, [*fixed, "--methods", "ours,unet"])
    assert "--methods: unet: choose from ours, profile, nnunet-2d" in answer.stderr
    assert not Path("o").exists()


def test_profile_keeps_data_and_drops_what_is_set_of_training(script: Scripts, hospitals: list[Hospital]) -> None:
    command = script("benchmarks.peers.command")
    changes = {"data.spacing_mm": 9.0, "training.batch_size": 2, "scoring.patients": "validation"}
    given = Chosen("smoke", {**changes, "data.validation_share": 0.2, "scoring.flips": True})
    sites = tuple(hospital.site for hospital in hospitals)
    config = given.layers().settings(method="fine-tune", seed=0, sites=sites)
    plain = command._of_profile(given, config)
    assert (plain.data, plain.sites, plain.scoring.patients) == (config.data, sites, "validation")
    assert (plain.training.batch_size, plain.scoring.flips) == (4, False)

    task = script("benchmarks.peers.measurement").Task
    by = {
        name: task(name, config.replace({"training.batch_size": size}), 0, 3, 1.0, Path("log")).asked
        for name, size in (("ours", 2), ("segresnet", 2))
    }
    other = {name: task(name, config.replace({"training.batch_size": 8}), 0, 3, 1.0, Path("log")).asked for name in by}
    assert by["ours"] != other["ours"]
    assert by["segresnet"] == other["segresnet"]
    moved = task("segresnet", config.replace({"data.spacing_mm": 8.0}), 0, 3, 1.0, Path("log")).asked
    assert moved != by["segresnet"]


def test_unknown_folds_and_sites_are_told(script: Scripts, hospitals: list[Hospital]) -> None:
    command = script("benchmarks.peers.command")
    assert command._folds("2,0", 3) == [2, 0]
    with pytest.raises(ConfigError, match="--fold: 3: choose from 0, 1, 2"):
        command._folds("1,3", 3)
    with pytest.raises(ConfigError, match="unknown site south: choose from site-1, site-2"):
        command._of_site(hospitals, "south")

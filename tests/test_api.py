"""What ``import fedserdiff`` offers, on runs that were written by hand; tests/e2e/test_notebook.py runs real ones."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_runs import CASES, write_run

import fedserdiff as fs
import fedserdiff.errors
from fedserdiff.errors import ConfigError
from fedserdiff.settings.sources import layers_of_settings

LEVELS = [[0.1, 0.2], [0.8, 0.3], [0.5, 0.7]]


@pytest.fixture
def run(tmp_path: Path) -> fs.Run:
    return fs.Run(write_run(tmp_path, "ser-diff", 3, LEVELS).path)


def test_r_has_a_row_a_stage_and_a_column_a_hospital(run: fs.Run) -> None:
    assert run.sites == ["north", "west"]
    assert run.R.shape == (3, 2)
    np.testing.assert_allclose(run.R, LEVELS, atol=0.1)
    assert np.array_equal(run.R, np.array(run.results["R"]["dice"]["mean"]))
    assert np.array_equal(run.matrix("hd95", "wt", "coarse"), np.array(run.results["R_coarse"]["hd95"]["wt"]))


def test_what_was_not_scored_is_no_number(run: fs.Run) -> None:
    run.results["R"]["dice"]["mean"][0][1] = None
    assert np.isnan(run.R[0, 1])
    assert np.isnan(run.R).sum() == 1


def test_an_unknown_region_is_named_with_the_known_ones(run: fs.Run) -> None:
    with pytest.raises(ConfigError, match=r"dice, liver: .* regions mean, tc, wt, et"):
        run.matrix("dice", "liver")


def test_scores_are_those_of_every_case_and_average_to_r(run: fs.Run) -> None:
    scores = run.scores
    assert len(scores) == 3 * sum(map(len, CASES.values())) * 2 * 3
    last = scores[(scores.stage == 2) & (scores.site == "west") & (scores["mask"] == "refined")]
    last = last[last.region == "et"]
    assert sorted(last.case) == sorted(CASES["west"])
    assert last.dice.mean() == pytest.approx(run.matrix("dice", "et")[2, 1])


def test_without_pandas_scores_are_dicts(run: fs.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # as where it is not installed
    assert {row["site"] for row in run.scores} == {"north", "west"}
    assert all(isinstance(row["dice"], float) for row in run.scores)


def test_settings_of_a_run_are_those_that_made_it(run: fs.Run) -> None:
    assert (run.settings.seed, run.settings.method.name, run.settings.profile) == (3, "ser-diff", "smoke")


def test_a_folder_without_results_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not the directory of a finished run"):
        fs.Run(tmp_path)


@pytest.mark.parametrize(
    ("hospitals", "settings", "says"),
    [
        (0, None, "sites: 0 is less than 1"),
        (2, "smok", "unknown profile 'smok': did you mean smoke"),
        (2, {"training.batch": 1}, "training.batch: unknown setting: did you mean .*training.batch_size"),
        ("nowhere.toml", None, "nowhere.toml: cannot be read"),
        ([fs.Site("a", "brats2021", "nowhere")], "smoke", "nowhere"),
    ],
)
def test_a_mistake_is_an_error_that_says_what_to_do_and_leaves_no_run(
    hospitals: Any, settings: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fs.errors.FedSerDiffError, match=says):
        fs.simulate(hospitals, settings, cache=tmp_path / "cache")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("method", ["ser-diff", "ser-diff-plus", "ewc"])
def test_settings_of_ones_own_are_the_base_of_every_method_of_a_comparison(method: str) -> None:
    own = fs.make_settings("smoke", {"training.rounds": 1, "method.lambda_kd": 0.5}, method="ser-diff")
    plain = layers_of_settings(own).for_methods(["ser-diff", "ser-diff-plus", "ewc"])
    expected = {"training.rounds": 1, **({} if method == "ewc" else {"method.lambda_kd": 0.5})}
    assert plain.replace(method=method).by_name == fs.make_settings("smoke", expected, method=method).by_name


def test_importing_the_package_imports_nothing_heavy_and_lists_what_it_offers() -> None:
    code = (
        "import sys, fedserdiff as fs; print([m for m in ('torch', 'flwr', 'ray', 'monai') if m in sys.modules]); "
        "print(all(hasattr(fs, name) for name in fs.__all__)); fs.nothing"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900)
    assert done.stdout.split("\n")[:2] == ["[]", "True"]
    assert "AttributeError: module 'fedserdiff' has no attribute 'nothing'" in done.stderr

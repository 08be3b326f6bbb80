from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedserdiff.comparison.adapter_study import ADAPTER
from fedserdiff.comparison.records import RunRecord
from fedserdiff.comparison.replay_studies import ABLATION, LAMBDA, TEACHER_NOISE
from fedserdiff.comparison.stream_studies import STREAM_LENGTH, TEACHER_DATA, choose_patients, of_first_sites
from fedserdiff.comparison.studies import FirstHospital, Study
from fedserdiff.comparison.verdicts import judge, said
from fedserdiff.evaluation.bootstrap import StreamScores
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings

WriteRun = Callable[..., RunRecord]
OF_RUNS = (ABLATION, ADAPTER, LAMBDA, TEACHER_NOISE, TEACHER_DATA, STREAM_LENGTH)  # with a row a variant
LEVELS = [[0.1, 0.1], [0.8, 0.2], [0.5, 0.7]]
CONFIG = make_settings(
    "smoke", method="ser-diff", sites=(Site("north", "brats2021", "/n"), Site("west", "brats2021", "/w"))
)


def case(patient: str, scan: int = 0, voxels: int = 0) -> Any:
    """A cached case as studies see it: names, and a whole tumour of so many voxels."""
    mask = np.zeros((3, 10, 10, 10), np.uint8)
    mask[1].reshape(-1)[:voxels] = 1
    return SimpleNamespace(
        case=SimpleNamespace(name=f"{patient}-{scan}", patient=patient),
        prepared=SimpleNamespace(tumour_voxels=int(mask.any(0).sum())),
    )


TRAINING = [case(f"p{n}", voxels=10 * n) for n in (3, 1, 4, 2, 8, 7, 6, 5)]
FIRST = FirstHospital(TRAINING, [case("v1"), case("v1", scan=1)], [case("t1"), case("t2")])


def described(study: Study, write_run: WriteRun, levels: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Describe a study whose every variant has a run of seeds 0, 1 and 2, with its verdicts in words."""
    runs = {}
    for number, (name, config) in enumerate(study.variants(CONFIG, FIRST).items()):
        by_seed = {}
        for seed in (0, 1, 2):
            record = write_run(config.method.name, seed, levels.get(name, LEVELS), name=f"{number}-{seed}")
            by_seed[seed] = record
        runs[name] = by_seed
    (judged,) = judge([{**study.describe(runs, True), "scored": "validation"}])
    return {**judged, "sentences": said(judged["sentences"], judged)}


@pytest.mark.parametrize("study", OF_RUNS, ids=lambda study: study.name)
def test_a_study_has_a_row_for_each_variant_under_its_columns_and_a_plot_of_as_many_points(
    study: Study, write_run: WriteRun
) -> None:
    result = described(study, write_run, {})
    assert all(len(row) == len(result["columns"]) for row in result["rows"])
    assert result["sentences"]
    for series in result["plot"]["series"]:
        assert len(series["x"]) == len(series["y"]) > 0
        assert all(len(series[key]) == len(series["y"]) for key in ("low", "high", "texts") if series[key] is not None)
    assert len(result["rows"]) == len(study.variants(CONFIG, FIRST))  # of a stream of two sites there is one length


def of_ser_diff(study: Study) -> list[Settings]:
    return [config for config in study.variants(CONFIG, FIRST).values() if config.method.name == "ser-diff"]


def test_what_differs_between_variants_is_what_the_study_is_about() -> None:
    changed = {
        study.name: {
            name
            for config in study.variants(CONFIG, FIRST).values()
            for name, value in {**config.by_name, "sites": config.sites}.items()
            if value != {**CONFIG.by_name, "sites": CONFIG.sites}.get(name, value)
        }
        for study in OF_RUNS
    }
    assert changed == {
        "ablation": {"method.name", "method.shared_error_maps"},
        "adapter": {"method.name", "method.teacher", "method.shared_error_maps", "method.lambda_kd"},
        "lambda": {"method.name", "method.lambda_kd"},
        "teacher-noise": {"method.name", "replay.map_noise"},
        "teacher-data": {"sites"},
        "stream-length": {"method.name", "training.steps_per_stage"},
    }
    assert [c.value("method.lambda_kd") for c in of_ser_diff(LAMBDA)] == [0.1, 0.5, 1, 2]
    shared = {c.shared_error_maps for c in of_ser_diff(ABLATION)}
    assert shared == {"null", "mri", "none"}
    assert {c.value("method.inversion_steps") for c in ADAPTER.variants(CONFIG, FIRST).values()} == {2, 0}


def test_a_study_says_in_words_where_error_maps_do_not_beat_what_they_are_compared_with(
    write_run: WriteRun,
) -> None:
    better = [[0.1, 0.1], [0.8, 0.2], [0.7, 0.7]]
    levels = {"synthetic images (image-replay)": better, "nothing (fine-tune)": [[0.1, 0.1], [0.8, 0.2], [0.3, 0.7]]}
    sentences = described(ABLATION, write_run, levels)["sentences"]
    assert any(s.startswith("Replaying error maps beats replaying nothing (fine-tune): +10.0") for s in sentences)
    assert any(s.startswith("Replaying error maps loses to replaying full synthetic images: −10.0") for s in sentences)
    assert any(s.startswith("Replaying error maps or distilling") and "undecided" in s for s in sentences)


def test_the_figures_of_a_study_are_those_of_its_runs(write_run: WriteRun) -> None:
    result = described(LAMBDA, write_run, {"2": [[0.1, 0.1], [0.8, 0.2], [0.6, 0.6]]})
    record = write_run("ser-diff", 0, [[0.1, 0.1], [0.8, 0.2], [0.6, 0.6]], name="again-0")
    others = [
        write_run("ser-diff", seed, [[0.1, 0.1], [0.8, 0.2], [0.6, 0.6]], name=f"again-{seed}") for seed in (1, 2)
    ]
    ends = np.mean([r.results["R"]["dice"]["mean"][-1] for r in (record, *others)], axis=0)
    first, last = 100 * ends
    row = next(row for row in result["rows"] if row[0] == "2")
    assert row[result["columns"].index("Dice % on first site")] == pytest.approx(first)
    assert row[result["columns"].index("Dice % on last site")] == pytest.approx(last)
    (series,) = result["plot"]["series"]
    place = series["texts"].index("λ = 2")
    assert (series["x"][place], series["y"][place]) == pytest.approx((last, first))


def test_patients_that_are_alike_are_neighbours_by_volume_and_diverse_ones_span_the_range() -> None:
    assert choose_patients(TRAINING, 0.5, diverse=False) == {"p3", "p4", "p5", "p6"}
    assert choose_patients(TRAINING, 0.25, diverse=True) == {"p1", "p8"}
    assert len(choose_patients(TRAINING, 0.5, diverse=True)) == 4
    assert choose_patients(TRAINING, 0.01, diverse=True) <= {f"p{n}" for n in range(1, 9)}
    twice = [*TRAINING, case("p1", scan=1, voxels=500)]
    assert "p1" in choose_patients(twice, 0.25, diverse=True), "a patient counts with its largest tumour"
    assert "p2" in choose_patients(twice, 0.25, diverse=True)


def test_the_teachers_data_shrink_and_those_held_out_stay() -> None:
    *fewer, everyone = TEACHER_DATA.variants(CONFIG, FIRST).values()
    assert everyone == CONFIG, "the run of the comparison itself"
    for config in fewer:
        site = config.sites[0]
        assert site.test_cases == ("t1-0", "t2-0")
        assert site.validation_cases == ("v1-0", "v1-1")
        assert {*site.test_cases, *site.validation_cases} < set(site.cases)
        assert config.sites[1:] == CONFIG.sites[1:]
    assert [len(config.sites[0].cases) - 4 for config in fewer] == [2, 2, 4, 4]


def test_a_shorter_stream_is_the_beginning_of_a_longer_one() -> None:
    rng = np.random.default_rng(0)
    sites = ["a", "b", "c"]
    scores = StreamScores(
        {s: rng.random((4, 2)) for s in sites}, {s: ["p", "q"] for s in sites}, dict.fromkeys(sites, 3), True
    )
    short = of_first_sites(scores, 2)
    assert list(short.values) == ["a", "b"]
    assert short.deployed == {"a": 2, "b": 2}
    assert np.array_equal(short.values["b"], scores.values["b"][:3])

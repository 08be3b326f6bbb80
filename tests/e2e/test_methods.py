"""Every method on the real engine; runs of two hospitals share their first stage with fine-tuning."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fedserdiff import wire
from fedserdiff.diffusion.refiner import Prediction, Student, new_student
from fedserdiff.errors import ConfigError
from fedserdiff.evaluation.recognition import appearance
from fedserdiff.experiments import simulation
from fedserdiff.experiments.opened_model import open_model
from fedserdiff.report.events import RunEvents
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from sites.adapters import load_adapter
from sites.evaluation import predict_case, score_prediction
from sites.hospital import open_hospital
from sites.training import Order, run_round
from strategies.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
OTHERS = ("ser-diff-plus", "distill", "ewc", "ser-diff+ewc", "image-replay", "local", "rehearsal")
Results = dict[str, Any]
Go = Callable[..., Results]


@pytest.fixture(scope="module")
def others(go: Go, fine_tune: Results, workplace: Path) -> Callable[[str], Results]:
    """Two hospitals by any of `OTHERS`, each run once."""
    done: dict[str, Results] = {}

    def of(method: str) -> Results:
        if method not in done:
            done[method] = go(method, config_of(workplace / "fine-tune").replace(method=method))
        return done[method]

    return of


@pytest.fixture(scope="module")
def together(go: Go, fine_tune: Results, workplace: Path) -> Callable[[str], Results]:
    """Two hospitals by a method of all together, two rounds, each run once."""
    done: dict[str, Results] = {}

    def of(method: str) -> Results:
        if method not in done:
            done[method] = go(method, config_of(workplace / "fine-tune").replace({"method.rounds": 2}, method=method))
        return done[method]

    return of


@pytest.fixture(scope="module")
def go(workplace: Path) -> Go:
    """Run a config in this process, as a comparison does; return its ``results.json``, in the directory ``NAME``."""
    cache = workplace / "cache" / "cases"

    def call(name: str, config: Settings, events: RunEvents | None = None, **how: Any) -> Results:
        hospitals = tuple(open_hospital(site, config, cache) for site in config.sites)
        run, federation = RunDirectory.new(workplace / name), simulation.Federation(config, hospitals, ())
        results: Results = simulation.run_simulation(federation, run, cache, events or RunEvents(), ray_cpus=1, **how)
        assert results == json.loads((run.path / "results.json").read_text())
        return results

    return call


class Notes(RunEvents):
    """What the coordinator notes of what hospitals hand over."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def noted(self, text: str) -> None:
        self.notes.append(text)


def config_of(run: Path) -> Settings:
    return Settings.from_dict(json.loads((run / "config.json").read_text()))


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "student.pt", weights_only=True)
    return state


def row(results: Results, stage: int) -> list[Any]:
    """Every score after a stage."""
    return [results[r][m][k][stage] for r in ("R", "R_coarse") for m in ("dice", "hd95") for k in ("tc", "wt", "et")]


def kinds(ledger: dict[str, dict[str, int]]) -> list[set[str]]:
    return [set(ledger[site]) for site in ("site-1", "site-2")]


@pytest.mark.parametrize("method", OTHERS)
def test_a_method_begins_as_fine_tuning_does_and_goes_its_own_way_from_the_second_stage_on(
    method: str, others: Callable[[str], Results], fine_tune: Results, workplace: Path
) -> None:
    results = others(method)
    assert results["method"] == method
    assert results["stages"] == ["untrained", "site-1", "site-2"]
    for stage in (0, 1):
        assert row(results, stage) == row(fine_tune, stage)
    assert results["losses"][0] == fine_tune["losses"][0]
    assert np.isfinite(row(results, 2)).all()
    ours, plain = weights(workplace / method), weights(workplace / "fine-tune")
    assert any(not torch.equal(ours[name], plain[name]) for name in plain)
    added = dict.fromkeys(("ser-diff", "ser-diff-plus", "distill"), "distillation")
    added |= {"ewc": "consolidation", "image-replay": "replay"}
    terms = {added[part] for part in method.split("+") if part in added}
    assert set(results["losses"][1]) == {"segmentation", *terms}
    assert all(value > 0 for value in results["losses"][1].values())


OUT, IN = {"arrays", "metrics", "site", "scan-hashes"}, {"arrays", "config"}


@pytest.mark.parametrize(
    ("method", "out", "into"),
    [
        ("ser-diff-plus", [OUT, OUT], [IN, IN | {"teacher"}]),
        ("distill", [OUT, OUT], [IN, IN | {"teacher"}]),
        ("ewc", [OUT | {"fisher"}, OUT], [IN, IN | {"teacher", "fisher"}]),
        ("ser-diff+ewc", [OUT | {"error-maps", "fisher"}, OUT], [IN, IN | {"teacher", "error-maps", "fisher"}]),
        ("image-replay", [OUT | {"synthetic-images"}, OUT], [IN, IN | {"synthetic-images"}]),
        ("lesion-replay", [OUT | {"lesion-moments"}, OUT], [IN, IN | {"teacher", "lesion-moments"}]),
        ("local", [OUT, OUT], [IN, IN]),
        ("rehearsal", [OUT | {"raw-scans"}, OUT], [IN, IN]),
    ],
)
def test_only_what_a_method_needs_crosses_the_wire(
    method: str, out: list[set[str]], into: list[set[str]], others: Callable[[str], Results]
) -> None:
    results = others(method)
    assert kinds(results["bytes_out"]) == out
    assert kinds(results["bytes_in"]) == into


@pytest.mark.parametrize(
    ("method", "told", "kept"), [("scaffold", {"control"}, "own"), ("fedbn", set[str](), "personal")]
)
def test_all_hospitals_train_in_every_round_of_the_one_stage_in_which_they_come_together(
    method: str, told: set[str], kept: str, together: Callable[[str], Results], workplace: Path
) -> None:
    results = together(method)
    assert (results["stages"], results["deployed"]) == (["untrained", "together"], [1, 1])
    assert results["bwt"]["dice"]["mean"] is None
    assert kinds(results["bytes_out"]) == [OUT | told] * 2
    assert kinds(results["bytes_in"]) == [IN | told] * 2
    student = results["bytes_in"]["site-2"]["arrays"] / 4  # two evaluations and two rounds
    assert results["bytes_out"]["site-2"]["arrays"] == pytest.approx(student, rel=0.01), "two changes of half the bytes"
    for site in ("site-1", "site-2"):
        files = {file.name for file in (workplace / method / "hospitals" / site).glob("*-1-*.pt")}
        assert files == {f"{kept}-1-{number}.pt" for number in (1, 2)}


def test_a_hospital_segments_with_its_own_weights_and_nobody_without_them(
    together: Callable[[str], Results], workplace: Path, tmp_path: Path
) -> None:
    together("fedbn")
    run, away = workplace / "fedbn", tmp_path / "fedbn"
    shared = weights(run)
    for site in ("site-1", "site-2"):
        own = torch.load(run / "hospitals" / site / "personal-1-2.pt")
        opened = open_model(run, site)
        assert opened.about["personal weights"] == "included"
        for name, value in opened.student.state_dict().items():
            assert torch.equal(value, own.get(name, shared[name])), name
    shutil.copytree(run, away, ignore=lambda *_: ["hospitals"])  # as a coordinator of real hospitals has it
    with pytest.raises(ConfigError, match=r"lacks weights that stay at site-2; give its folder with --site"):
        open_model(away, "site-2")
    beside = open_model(away, str(run / "hospitals" / "site-2")).student.state_dict()
    assert all(torch.equal(value, beside[name]) for name, value in opened.student.state_dict().items())


def test_lesions_of_fewer_than_five_patients_are_not_told_and_training_is_fine_tuning_but_for_inertia(
    go: Go, fine_tune: Results, workplace: Path
) -> None:
    config = config_of(workplace / "fine-tune").replace({"aggregation.inertia": 0.0}, method="lesion-replay")
    heard = Notes()
    results = go("lesions-of-few", config, heard)
    assert [note.partition(" moments")[0] for note in heard.notes] == ["site-1 shares no"]
    assert results["notes"] == heard.notes
    assert row(results, 2) == row(fine_tune, 2)
    ours, plain = weights(workplace / "lesions-of-few"), weights(workplace / "fine-tune")
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


def test_fine_tuning_sends_neither_teacher_nor_maps(fine_tune: Results) -> None:
    assert kinds(fine_tune["bytes_out"]) == [OUT, OUT]
    assert kinds(fine_tune["bytes_in"]) == [IN, IN]


def test_fisher_information_weighs_as_much_as_a_student_and_images_by_their_voxels(
    others: Callable[[str], Results],
) -> None:
    ewc, replay = others("ewc"), others("image-replay")
    student = ewc["bytes_in"]["site-2"]["arrays"] / 5  # three evaluations and two rounds
    assert ewc["bytes_in"]["site-2"]["teacher"] == pytest.approx(student)
    assert ewc["bytes_out"]["site-1"]["fisher"] == pytest.approx(student, rel=0.01)  # names and headers are a little
    assert ewc["bytes_in"]["site-2"]["fisher"] == pytest.approx(2 * student, rel=0.01)  # with both rounds
    voxels = 4 * 16 * 24 * 4 * 2  # samples × slice × images of two bytes; masks are packed
    assert voxels <= replay["bytes_out"]["site-1"]["synthetic-images"] < voxels + 4 * 16 * 24 * 3 / 2
    assert replay["bytes_in"]["site-2"]["synthetic-images"] == 2 * replay["bytes_out"]["site-1"]["synthetic-images"]


def test_weight_0_makes_ewc_fine_tuning_to_the_last_digit(fine_tune: Results, go: Go, workplace: Path) -> None:
    ours = go("ewc-0", config_of(workplace / "fine-tune").replace({"method.weight": 0.0}, method="ewc"))
    assert ours["R"] == fine_tune["R"]
    assert ours["R_coarse"] == fine_tune["R_coarse"]
    assert ours["losses"] == fine_tune["losses"]
    plain = weights(workplace / "fine-tune")
    assert all(torch.equal(value, plain[name]) for name, value in weights(workplace / "ewc-0").items())
    assert "fisher" in ours["bytes_in"]["site-2"], "it is the weight that makes no difference, not the method"


@pytest.mark.parametrize(("inertia", "kept"), [(0.25, 0.25), (0.9, 0.6)], ids=["at most", "by cases"])
def test_a_later_stage_keeps_of_the_student_it_began_with_by_cases_and_inertia_at_most(
    inertia: float, kept: float, fine_tune: Results, go: Go, workplace: Path
) -> None:
    counts = [own["training"] for own in fine_tune["cases"].values()]
    assert counts[0] / sum(counts) == 0.6
    name = f"inertia-{inertia}"
    results = go(name, config_of(workplace / "fine-tune").replace({"aggregation.inertia": inertia}))
    files = ("fine-tune/student-of-stage-1.pt", "fine-tune/student-of-stage-2.pt", f"{name}/student.pt")
    began, free, held = (torch.load(workplace / file, weights_only=True) for file in files)
    for weights_of, values in held.items():
        expected = kept * began[weights_of] + (1 - kept) * free[weights_of]
        torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-6)
    assert row(results, 1) == row(fine_tune, 1), "of an untrained student nothing is kept"
    assert row(results, 2) != row(fine_tune, 2), "the student between is the one that is scored"


def test_a_hospital_alone_trains_the_untrained_student_on_its_own_cases(
    others: Callable[[str], Results], workplace: Path
) -> None:
    results = others("local")
    assert results["deployed"] == [1, 2]
    assert results["bwt"]["dice"]["mean"] is None
    config = config_of(workplace / "local")
    alone, hospital = new_student(config), open_hospital(config.sites[1], config, workplace / "cache" / "cases")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the run
    try:
        for server_round in (1, 2):
            received = wire.weights_to_record(alone)
            run_round(alone, Order(stage=2, server_round=server_round), hospital, lambda site: hospital, config)
            wire.load_weights(alone, wire.changed(received, wire.change_to_record(alone, received)))
    finally:
        torch.set_num_threads(threads)
    expected = alone.state_dict()
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in weights(workplace / "local").items())


def test_a_run_that_goes_on_from_a_first_stage_is_the_whole_run_but_for_times(
    ser_diff: Results, go: Go, workplace: Path
) -> None:
    config = config_of(workplace / "ser-diff")
    first = go("first", config.of_first_stage(), only_first=True)
    assert [first["stages"], first["deployed"]] == [["untrained", "site-1"], [3, 3, 3]]
    assert len(first["R"]["dice"]["mean"]) == 2
    assert not any("consolidation" in name for name in first["seconds"])

    rest = go("rest", config, first_stage=workplace / "first")
    seconds, whole = rest.pop("seconds"), {k: v for k, v in ser_diff.items() if k != "seconds"}
    assert rest == whole
    assert set(seconds) == set(ser_diff["seconds"])
    for name in ("evaluation 0", "stage 1", "evaluation 1"):
        assert seconds[name] == first["seconds"][name]
    for name in ("student.pt", "teacher.pt"):
        both = [torch.load(workplace / run / name, weights_only=True) for run in ("ser-diff", "rest")]
        assert all(torch.equal(value, both[1][key]) for key, value in both[0].items())
    for site in ser_diff["sites"]:  # each hospital's own scores, of the stages before and after
        tables = [(workplace / run / "hospitals" / site / "scores.csv").read_text() for run in ("ser-diff", "rest")]
        assert tables[0] == tables[1]


def files_of_training_cases(run: Path) -> dict[str, dict[str, int]]:
    """Bytes of a case's folder by site and case, for every case that the site has never been scored on."""
    sizes: dict[str, dict[str, int]] = {}
    for site in config_of(run).sites:
        with (run / "hospitals" / site.name / "scores.csv").open() as file:
            test = {line["case"] for line in csv.DictReader(file)}
        assert test
        folders = [folder for folder in Path(site.path).iterdir() if folder.is_dir() and folder.name not in test]
        sizes[site.name] = {f.name: sum(file.stat().st_size for file in f.iterdir()) for f in sorted(folders)}
    return sizes


def test_pooling_counts_every_training_case_as_raw_scans(pooled: Results, workplace: Path) -> None:
    sizes = files_of_training_cases(workplace / "pooled")
    assert [len(cases) for cases in sizes.values()] == [3, 2]
    for site, cases in sizes.items():
        assert pooled["bytes_out"][site]["raw-scans"] == sum(cases.values()) > 0


def test_rehearsal_counts_the_cases_that_stay_in_the_buffer_as_raw_scans(
    others: Callable[[str], Results], workplace: Path
) -> None:
    results = others("rehearsal")
    cases = files_of_training_cases(workplace / "rehearsal")["site-1"]
    config = config_of(workplace / "rehearsal")
    # a quarter of three patients is none, and at least one is kept; a phantom patient has one scan
    chosen = int(torch.randperm(len(cases), generator=generator(config.seed, "rehearsal", "site-1"))[0])
    assert results["bytes_out"]["site-1"]["raw-scans"] == list(cases.values())[chosen] > 0
    assert len(set(cases.values())) == 3, "so that another case would have been noticed"


def test_scans_of_unknown_origin_get_the_adapters_of_the_hospitals_that_they_resemble(
    others: Callable[[str], Results], workplace: Path
) -> None:
    """What a run writes, against discriminant analysis and masks by hand."""
    told = others("ser-diff-plus")["unknown_origin"]
    run = workplace / "ser-diff-plus"
    config = config_of(run)
    names = [site.name for site in config.sites]
    student = Student(config)
    student.load_state_dict(weights(run))
    adapters = [load_adapter(run / "hospitals" / name, config, name, (4, 0)) for name in names]
    assert [adapter is None for adapter in adapters] == [True, False], "the first hospital needs none"
    hospitals = [open_hospital(site, config, workplace / "cache" / "cases") for site in config.sites]
    seen = np.stack([appearance(cached.prepared.image) for hospital in hospitals for cached in hospital.training])
    whose = np.repeat([0, 1], [len(hospital.training) for hospital in hospitals])
    centre, scale = seen.mean(0), seen.std(0)
    scale[scale == 0] = 1
    analysis = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5])
    analysis.fit((seen - centre) / scale, whose)
    with (run / "unknown-origin.csv").open(newline="") as file:
        rows = {(row["case"], row["region"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 * 3, "a test case a hospital"
    for number, hospital in enumerate(hospitals):
        (cached,) = hospital.test
        own = (appearance(cached.prepared.image) - centre) / scale
        likely = analysis.predict_proba(own[None])[0]
        nearest = int(likely.argmax())
        found = [predict_case(student, cached, config, adapters[place]) for place in (nearest, 1 - nearest)]
        clear = likely.max() >= 0.9
        masks = found[:1] if clear else found
        refined = torch.stack([one.refined for one in masks]).mean(0)
        coarse = torch.stack([one.coarse for one in masks]).mean(0)
        scores = score_prediction(Prediction(coarse, refined - coarse), cached)
        for region in ("tc", "wt", "et"):
            row = rows[cached.case.name, region]
            assert (row["site"], row["nearest"], row["averaged"]) == (names[number], names[nearest], str(not clear))
            assert float(row["probability"]) == pytest.approx(likely.max())
            assert float(row["dice"]) == pytest.approx(scores[f"refined.dice.{region}"])
            assert float(row["hd95"]) == pytest.approx(scores[f"refined.hd95.{region}"])
        name = names[number]
        assert told["dice"][name] == pytest.approx(np.mean([scores[f"refined.dice.{r}"] for r in ("tc", "wt", "et")]))
        assert (told["recognised"][name], told["averaged"][name]) == (int(nearest == number), int(not clear))


def test_a_run_whose_hospitals_keep_nothing_scores_no_scans_of_unknown_origin(
    fine_tune: Results, workplace: Path
) -> None:
    assert "unknown_origin" not in fine_tune
    assert not (workplace / "fine-tune" / "unknown-origin.csv").exists()

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from fedserdiff.comparison.records import RunRecord
from fedserdiff.comparison.summary import Data, compare_runs
from fedserdiff.comparison.verdicts import judge
from fedserdiff.errors import ConfigError
from fedserdiff.evaluation.bootstrap import StreamScores

WriteRun = Callable[..., RunRecord]
PHANTOM = Data("phantom", phantom=True)
FORGETS = [[0.1, 0.1], [0.8, 0.2], [0.4, 0.7]]
KEEPS = [[0.1, 0.1], [0.8, 0.2], [0.6, 0.7]]
POOLED = [[0.1, 0.1], [0.85, 0.8]]


def verdicts(
    write_run: WriteRun, methods: dict[str, list[list[float]]], seeds: tuple[int, ...] = (0, 1, 2)
) -> list[str]:
    (judged,) = judge([compare_runs(runs(write_run, methods, tuple(seeds)), PHANTOM)])
    return [one["text"] for one in judged["verdicts"]]


def runs(write_run: WriteRun, methods: dict[str, list[list[float]]], seeds: tuple[int, ...] = (0, 1)) -> dict:
    return {name: {seed: write_run(name, seed, levels) for seed in seeds} for name, levels in methods.items()}


def test_means_are_those_of_results_json(write_run: WriteRun) -> None:
    given = runs(write_run, {"ser-diff": KEEPS, "fine-tune": FORGETS, "pooled": POOLED})
    comparison = compare_runs(given, PHANTOM)
    for method in comparison["methods"]:
        results = [run.results for run in given[method["name"]].values()]
        for metric in ("dice", "hd95"):
            last = [r["R"][metric]["mean"][-1] for r in results]
            assert method["scores"][metric]["value"] == pytest.approx(np.mean(last))
            assert list(method["per_site"][metric].values()) == pytest.approx(np.mean(last, axis=0))
            assert np.allclose(method["R"][metric], np.mean([r["R"][metric]["mean"] for r in results], axis=0))
        for name in ("bwt", "fwt", "forgetting"):
            each = [r[name]["dice"]["mean"] for r in results]
            if None in each:
                assert method["scores"][name] is None
            else:
                assert method["scores"][name]["value"] == pytest.approx(np.mean(each))
        sent = {"arrays": 2001.0, "metrics": 20.0}  # both sites, mean of seeds 0 and 1
        assert method["bytes_out"] == ({} if method["name"] == "pooled" else sent)
        assert method["minutes"] == pytest.approx((90 + 120) / 2 / 60)
    assert [m["name"] for m in comparison["methods"] if m["breaks_privacy"]] == ["pooled"]


def test_the_worst_hospital_is_named_with_its_value_the_spread_and_dice_by_region(write_run: WriteRun) -> None:
    given = runs(write_run, {"fine-tune": FORGETS, "local": KEEPS})
    for method in compare_runs(given, PHANTOM)["methods"]:
        results = [run.results for run in given[method["name"]].values()]
        last = np.mean([r["R"]["dice"]["mean"][-1] for r in results], axis=0)
        found = method["fairness"]
        assert found["worst_site"] == "north"
        assert found["worst"]["value"] == pytest.approx(last[0])
        assert found["spread"]["value"] == pytest.approx(abs(last[0] - last[1]) / 2), "of two: half their distance"
        assert found["worst"]["low"] <= found["worst"]["value"] <= found["worst"]["high"]
        assert list(method["dice_by_region"]) == ["tc", "wt", "et"]
        for region, score in method["dice_by_region"].items():
            assert score["value"] == pytest.approx(np.mean([r["R"]["dice"][region][-1] for r in results]))
            assert score["low"] < score["value"] < score["high"]


def test_a_method_says_its_group_and_what_it_needs_to_know(write_run: WriteRun) -> None:
    names = ("local", "fine-tune", "ser-diff-plus", "rehearsal")
    methods = compare_runs(runs(write_run, dict.fromkeys(names, KEEPS)), PHANTOM)["methods"]
    assert {m["name"]: (m["group"], m["needs"]) for m in methods} == {
        "local": ("alone", []),
        "fine-tune": ("in-turn", []),
        "ser-diff-plus": ("in-turn", ["which hospital a scan comes from"]),
        "rehearsal": ("raw-data", ["raw data of other hospitals"]),
    }


def test_curves_are_each_seeds_validations_by_site_and_stage(write_run: WriteRun) -> None:
    (given,) = runs(write_run, {"ewc": KEEPS}, (3,)).values()
    record = given[3]
    points = [
        {"site": site, "stage": stage, "round": 1, "step": step, "refined.dice.tc": 0.2, "refined.dice.wt": step / 10}
        for site, stage, step in (("north", 1, 4), ("north", 1, 8), ("west", 2, 6))
    ]
    validated = replace(record, results={**record.results, "curves": [{**p, "coarse.dice.tc": 0.9} for p in points]})
    (method,) = compare_runs({"ewc": {3: validated}}, PHANTOM)["methods"]
    assert method["curves"] == [
        {"seed": 3, "site": "north", "stage": 1, "steps": [4, 8], "dice": pytest.approx([0.3, 0.5])},
        {"seed": 3, "site": "west", "stage": 2, "steps": [6], "dice": pytest.approx([0.4])},
    ]


def test_an_interval_is_that_of_every_equally_likely_draw_of_patients(write_run: WriteRun) -> None:
    """One seed: 3 patients in the north, 2 in the west (one with two scans): 27 × 4 draws, enumerated."""
    given = runs(write_run, {"fine-tune": FORGETS}, seeds=(0,))
    scores = given["fine-tune"][0].scores["dice"]
    north, west = (values[-1] for values in scores.values.values())
    by_patient = [west[:2], west[2:]]
    finals = [
        (np.mean([north[i] for i in a]) + np.mean(np.concatenate([by_patient[i] for i in b]))) / 2
        for a in itertools.product(range(3), repeat=3)
        for b in itertools.product(range(2), repeat=2)
    ]
    shown = compare_runs(given, PHANTOM)["methods"][0]["scores"]["dice"]
    # 108 draws come in lumps: a percentile lies where the share of draws below it passes 2.5 %, give or take chance.
    drawn = np.array(finals)
    assert np.mean(drawn < shown["low"] - 1e-6) <= 0.035
    assert np.mean(drawn <= shown["low"] + 1e-6) >= 0.015
    assert np.mean(drawn > shown["high"] + 1e-6) <= 0.035
    assert np.mean(drawn >= shown["high"] - 1e-6) >= 0.015
    assert shown["value"] == pytest.approx((north.mean() + west.mean()) / 2)


def test_the_answer_says_what_pooling_gives_and_what_is_won_back(write_run: WriteRun) -> None:
    comparison = compare_runs(
        runs(write_run, {"ser-diff": KEEPS, "fine-tune": FORGETS, "rehearsal": KEEPS, "pooled": POOLED}), PHANTOM
    )
    cost, regained = comparison["answer"]
    worst = {m["name"]: (m["fairness"]["worst_site"], m["fairness"]["worst"]) for m in comparison["methods"]}
    for name, ends in (("pooled", "west"), ("fine-tune", "north")):
        site, dice = worst[name]
        ends_at = f"{100 * dice['value']:.1f} % [{100 * dice['low']:.1f}, {100 * dice['high']:.1f}]"
        assert site == ends
        assert f"mean Dice (worst hospital {site}: {ends_at}" in cost
    # On both sites pooling is ahead by 0.45 and 0.1; ser-diff by 0.2 on one of two.
    assert "Not pooling therefore costs 27.5 [27.5, 27.5] points" in cost
    assert "ser-diff 36 % [36, 36]" in regained
    assert "rehearsal (breaks privacy) 36 %" in regained


def test_without_bounds_the_answer_names_where_each_method_ends_or_of_many_the_highest(write_run: WriteRun) -> None:
    given = runs(write_run, {"ser-diff": KEEPS, "distill": FORGETS, "ewc": FORGETS, "rehearsal": KEEPS})
    two = compare_runs({name: given[name] for name in ("ser-diff", "rehearsal")}, PHANTOM)["answer"]
    assert two[0].startswith("ser-diff ends at ")
    assert "mean Dice (worst hospital north: " in two[0]
    assert ". rehearsal (breaks privacy) ends at " in two[0]
    (many,) = compare_runs(given, PHANTOM)["answer"]
    assert many.startswith("Among 3 methods that need no raw data of other hospitals, ser-diff ends highest, at ")
    assert "(worst hospital north: " in many


def test_a_verdict_is_of_the_same_patients_and_seeds_and_says_of_how_many(write_run: WriteRun) -> None:
    """Each phantom seed has 3 patients in the north and 2 in the west; ser-diff is 0.2 ahead on one site."""
    (told,) = verdicts(write_run, {"ser-diff": KEEPS, "fine-tune": FORGETS})
    assert told == (
        "ser-diff beats fine-tune: +10.0 [+10.0, +10.0] points of mean Dice, 15 test patients, 3 seeds, "
        "adjusted p = 0.001."
    )


def test_two_seeds_tell_of_no_method_that_it_beats_another(write_run: WriteRun) -> None:
    (told,) = verdicts(write_run, {"ser-diff": KEEPS, "fine-tune": FORGETS}, seeds=(0, 1))
    assert told.startswith("ser-diff or fine-tune: undecided: +10.0 [+10.0, +10.0]")
    assert "fewer than 3 seeds" in told


def test_a_method_that_does_not_beat_a_baseline_is_said_not_to(write_run: WriteRun) -> None:
    worse = [[0.1, 0.1], [0.8, 0.2], [0.3, 0.7]]
    told = verdicts(write_run, {"ser-diff": worse, "fine-tune": FORGETS, "distill": worse})
    assert any(s.startswith("ser-diff loses to fine-tune: −5.0") for s in told)
    assert any(s.startswith("ser-diff or distill: undecided: +0.0") for s in told)
    assert any("the interval includes 0, adjusted p = 1" in s for s in told)


def test_ser_diff_plus_is_held_against_what_it_is_to_beat_and_what_it_has_to_know_is_said(write_run: WriteRun) -> None:
    given = {"ser-diff-plus": POOLED, "ser-diff": FORGETS, "rehearsal": KEEPS}
    told = verdicts(write_run, given)
    assert any(s.startswith("ser-diff-plus beats ser-diff: +27.5") for s in told)
    assert any(s.startswith("ser-diff-plus beats rehearsal (breaks privacy): +17.5") for s in told)
    assert (
        "ser-diff-plus: a hospital is scored with the adapter or weights that it keeps for itself, so scores assume "
        "that the hospital of each scan is known." in compare_runs(runs(write_run, given, (3, 4)), PHANTOM)["answer"]
    )


def test_scans_of_unknown_origin_are_the_headline_and_known_ones_stand_beside_it(write_run: WriteRun) -> None:
    seeds = (0, 1, 2)
    given = {
        "fedbn": {seed: write_run("fedbn", seed, KEEPS, unknown=[0.3, 0.6]) for seed in seeds},
        "fine-tune": {seed: write_run("fine-tune", seed, FORGETS) for seed in seeds},
    }
    comparison = compare_runs(given, PHANTOM)
    fedbn, other = comparison["methods"]
    known = np.mean([run.results["R"]["dice"]["mean"][-1] for run in given["fedbn"].values()], axis=0)
    unknown = known - [0.3, 0.1]  # of levels 0.6 and 0.7, for the same cases
    assert fedbn["scores"]["dice"]["value"] == pytest.approx(unknown.mean())
    assert fedbn["scores"]["known_origin"]["value"] == pytest.approx(known.mean())
    assert list(fedbn["per_site"]["dice"].values()) == pytest.approx(unknown)
    assert fedbn["fairness"]["worst_site"] == "north"
    assert fedbn["fairness"]["worst"]["value"] == pytest.approx(unknown[0])
    assert other["scores"]["known_origin"] is None
    (verdict,) = judge([comparison])[0]["verdicts"]
    assert verdict["value"] == pytest.approx(100 * (0.45 - 0.55), abs=1e-6), "unknown against fine-tuning's 0.4 and 0.7"
    told = next(sentence for sentence in comparison["answer"] if sentence.startswith("fedbn: a hospital keeps"))
    assert f"With the hospital known, mean Dice is: fedbn {100 * known.mean():.1f} %" in told
    forgetting = [run.results["forgetting"]["dice"]["mean"] for run in given["fedbn"].values()]
    assert fedbn["scores"]["forgetting"]["value"] == pytest.approx(np.mean(forgetting)), "of the stream"


def test_every_method_is_held_against_fine_tuning_once(write_run: WriteRun) -> None:
    given = {"ser-diff": KEEPS, "fine-tune": FORGETS, "rehearsal": KEEPS, "distill": KEEPS}
    assert pairs_of(write_run, given) == [
        ("ser-diff", "fine-tune"),
        ("ser-diff", "distill"),
        ("rehearsal (breaks privacy)", "fine-tune"),
        ("distill", "fine-tune"),
    ]


def test_other_methods_of_training_together_are_held_against_fedavg_and_so_is_the_default(write_run: WriteRun) -> None:
    given = dict.fromkeys(("lesion-replay", "fedprox", "fedavg", "fine-tune", "fedbn"), KEEPS)
    assert pairs_of(write_run, given) == [
        ("lesion-replay", "fine-tune"),
        ("lesion-replay", "fedavg"),
        ("fedprox", "fedavg"),
        ("fedavg", "fine-tune"),
        ("fedbn", "fedavg"),
    ]


def test_training_together_is_held_against_fine_tuning_if_there_is_no_fedavg(write_run: WriteRun) -> None:
    given = dict.fromkeys(("fedprox", "fine-tune"), KEEPS)
    assert pairs_of(write_run, given) == [("fedprox", "fine-tune")]


def pairs_of(write_run: WriteRun, given: dict[str, list[list[float]]]) -> list[tuple[str, str]]:
    verdicts_of = compare_runs(runs(write_run, given), PHANTOM)["verdicts"]
    return [(one["first"], one["second"]) for one in verdicts_of]


def test_a_page_of_runs_on_a_gpu_and_on_cpus_says_which_is_which(write_run: WriteRun) -> None:
    given = runs(write_run, {"ser-diff": KEEPS, "fine-tune": FORGETS})
    there = given["ser-diff"][1]
    given["ser-diff"][1] = replace(
        there, config=there.config.replace({"machine.gpus_per_site": 1, "machine.cpus_per_site": 4})
    )
    notes = compare_runs(given, PHANTOM)["notes"]
    assert (
        "Some runs were computed on a GPU and the others on CPUs, whose last digits differ. On a GPU: ser-diff-1."
        in notes
    )
    assert any("computation on 1 or 4 CPUs for each run" in note for note in notes)


def test_runs_of_other_seeds_cannot_be_compared(write_run: WriteRun) -> None:
    given = runs(write_run, {"ser-diff": KEEPS}) | runs(write_run, {"fine-tune": FORGETS}, seeds=(0, 2))
    with pytest.raises(ConfigError, match="cannot be compared"):
        compare_runs(given, PHANTOM)


def test_data_and_versions_stand_in_the_comparison(write_run: WriteRun) -> None:
    data = Data("ours.toml", phantom=False, left_out=("west: X is Y, which north brought first",))
    comparison = compare_runs(runs(write_run, {"fine-tune": FORGETS}), data)
    assert comparison["data"] == {
        "name": "ours.toml",
        "phantom": False,
        "stream": None,
        "profile": "smoke",
        "sites": ["north", "west"],
        "releases": ["brats2021", "brats2023-gli"],
        "cases": {site: {"training": 8, "test": 3} for site in ("north", "west")},
        "seeds": [0, 1],
        "left_out": ["west: X is Y, which north brought first"],
        "kept": [],
        "leak": None,
    }
    assert {"torch", "flwr", "python"} <= set(comparison["versions"])
    drawn = compare_runs(runs(write_run, {"ser-diff": KEEPS}), PHANTOM)["data"]
    assert (drawn["phantom"], drawn["stream"]) == (True, "patients")


def test_a_comparison_says_whose_scores_it_is_of(write_run: WriteRun) -> None:
    given = runs(write_run, {"ser-diff": KEEPS, "fine-tune": FORGETS}, seeds=(0,))
    counts = {"north": {"training": 8, "validation": 1, "test": 3}, "west": {"training": 8, "validation": 3, "test": 1}}
    on_validation = {
        name: {
            seed: replace(
                one,
                config=one.config.replace({"data.validation_share": 0.1, "scoring.patients": "validation"}),
                results={**one.results, "cases": counts},
            )
            for seed, one in by_seed.items()
        }
        for name, by_seed in given.items()
    }
    tested, validated = (compare_runs(these, PHANTOM) for these in (given, on_validation))
    assert (tested["scored"], validated["scored"]) == ("test", "validation")
    said = " ".join((*validated["answer"], *validated["notes"]))
    assert "intervals cover only the variation over validation patients" in said
    assert "a single validation patient, as north here" in said
    assert "whole validation volumes" in said
    assert " test " not in said
    assert "intervals cover only the variation over test patients" in " ".join(tested["answer"])


def test_comparison_of_leaking_runs_says_so(write_run: WriteRun) -> None:
    data = Data("ours.toml", phantom=False, kept=("west: X is Y",), leak="Leaking: scores are too good")
    about = compare_runs(runs(write_run, {"fine-tune": FORGETS}), data)["data"]
    assert (about["left_out"], about["kept"], about["leak"]) == ([], ["west: X is Y"], "Leaking: scores are too good")


def test_a_single_test_patient_gives_no_interval_and_no_verdict(write_run: WriteRun) -> None:
    given = runs(write_run, {"ser-diff": KEEPS, "fine-tune": FORGETS, "pooled": POOLED}, seeds=(0,))

    def cut(kinds: Mapping[str, StreamScores]) -> dict[str, StreamScores]:
        return {
            kind: replace(
                scores,
                values={site: values[:, :1] for site, values in scores.values.items()},
                patients={site: of_case[:1] for site, of_case in scores.patients.items()},
            )
            for kind, scores in kinds.items()
        }

    alone = {
        name: {
            s: replace(r, scores=cut(r.scores), at_end=cut(r.at_end), dice_by_region=cut(r.dice_by_region))
            for s, r in by_seed.items()
        }
        for name, by_seed in given.items()
    }
    comparison = compare_runs(alone, Data("ours.toml", phantom=False))
    for method in comparison["methods"]:
        dice = method["scores"]["dice"]
        assert dice["low"] is None
        assert dice["high"] is None
        for score in (method["fairness"]["worst"], method["fairness"]["spread"], method["dice_by_region"]["et"]):
            assert score["value"] is not None
            assert score["low"] is None
    assert "Not pooling therefore costs 27.5 points" in comparison["answer"][0]
    assert comparison["answer"][1].startswith("How much other methods recover of this loss cannot be computed")
    (judged,) = judge([comparison])
    assert all("undecided" in one["text"] for one in judged["verdicts"])
    assert "too few test patients" in judged["verdicts"][0]["text"]

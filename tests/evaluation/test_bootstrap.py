import random
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy import stats

from fedserdiff.evaluation.bootstrap import STATISTICS, Estimate, Resampling, StreamScores
from fedserdiff.evaluation.continual import continual_scores

SITES = ("north", "east", "south")
PATIENTS = {"north": ["a", "a", "b", "c"], "east": ["d", "e", "e", "e", "f"], "south": ["g", "h", "i"]}


def stream(
    values: Mapping[str, ArrayLike],
    patients: Mapping[str, Sequence[str]] = PATIENTS,
    deployed: Mapping[str, int] | None = None,
    higher_is_better: bool = True,
) -> StreamScores:
    arrays = {site: np.asarray(v, float) for site, v in values.items()}
    last = {site: len(v) - 1 for site, v in arrays.items()}
    return StreamScores(arrays, patients, deployed or last, higher_is_better)


def some_values(seed: int, patients: Mapping[str, Sequence[str]] = PATIENTS) -> dict[str, np.ndarray]:
    """Scores with a spread between patients, and a level per seed."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 0.1)
    return {
        site: level + rng.normal(0.5, 0.2, len(p)) + rng.normal(0, 0.1, (len(patients) + 1, len(p)))
        for site, p in patients.items()
    }


def resampling(seeds: Sequence[int], shared: bool = True, replicates: int = 500, rng_seed: int = 0) -> Resampling:
    return Resampling(dict.fromkeys(seeds, PATIENTS), shared_patients=shared, replicates=replicates, rng_seed=rng_seed)


def width(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.interval().high - estimate.interval().low


def value(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.value


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_values_are_the_means_over_seeds_of_each_run_s_own_scores(higher_is_better: bool) -> None:
    runs = {s: stream(some_values(s), higher_is_better=higher_is_better) for s in (4, 7)}
    found = resampling([4, 7]).estimates(runs)

    matrices = [
        [[sum(run.values[site][row]) / len(PATIENTS[site]) for site in SITES] for row in range(4)]
        for run in runs.values()
    ]
    scores = [continual_scores(m, higher_is_better).to_dict() for m in matrices]
    assert value(found["final"]) == pytest.approx(sum(sum(m[3]) / 3 for m in matrices) / 2)
    for name in ("bwt", "fwt", "forgetting"):
        first, second = (s[name] for s in scores)
        assert first is not None
        assert second is not None
        assert value(found[name]) == pytest.approx((first + second) / 2)
    assert tuple(found) == STATISTICS


def test_one_seed_of_one_site_agrees_with_scipy() -> None:
    cases = np.random.default_rng(0).gamma(2.0, 5.0, 25)
    patients = {"only": [f"p{i}" for i in range(25)]}
    run = stream({"only": [np.zeros(25), cases]}, patients)
    draws = Resampling({0: patients}, shared_patients=False, replicates=40_000)
    final = draws.estimates({0: run})["final"]
    assert final is not None
    expected = stats.bootstrap(
        (cases,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    found = final.interval()
    assert found.value == pytest.approx(cases.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03 * (found.high - found.low))


def slow_replicates(runs: Mapping[int, StreamScores], shared: bool, replicates: int) -> dict[str, list[float]]:
    rng = random.Random(5)
    out: dict[str, list[float]] = {"final": [], "bwt": [], "fwt": [], "forgetting": []}

    def draw(run: StreamScores) -> dict[str, list[str]]:
        names = {site: sorted(set(p)) for site, p in run.patients.items()}
        return {site: [rng.choice(n) for _ in n] for site, n in names.items()}

    for _ in range(replicates):
        seeds = [rng.choice(list(runs)) for _ in runs]
        common = draw(runs[seeds[0]])
        of_seeds: dict[str, list[float]] = {name: [] for name in out}
        for seed in seeds:
            run = runs[seed]
            drawn = common if shared else draw(run)
            r: list[list[float]] = []
            for row in range(len(run.values) + 1):
                r.append([])
                for site, scores in run.values.items():
                    picked = [
                        scores[row][case]
                        for patient in drawn[site]
                        for case, of_case in enumerate(run.patients[site])
                        if of_case == patient
                    ]
                    r[-1].append(sum(picked) / len(picked))
            of_seeds["final"].append(sum(r[-1]) / len(r[-1]))
            one = continual_scores(r, run.higher_is_better).to_dict()
            for name in ("bwt", "fwt", "forgetting"):
                score = one[name]
                assert score is not None
                of_seeds[name].append(score)
        for name, scores_of_seeds in of_seeds.items():
            out[name].append(sum(scores_of_seeds) / len(seeds))
    return out


@pytest.mark.parametrize("shared", [True, False])
def test_intervals_agree_with_a_loop_that_draws_one_thing_at_a_time(shared: bool) -> None:
    patients = {
        seed: PATIENTS if shared else {**PATIENTS, "south": [f"{seed}-{i // 2}" for i in range(4 + seed)]}
        for seed in range(3)
    }
    runs = {seed: stream(some_values(seed, p), p) for seed, p in patients.items()}
    found = Resampling(patients, shared_patients=shared, replicates=8000).estimates(runs)
    for name, expected in slow_replicates(runs, shared, 4000).items():
        estimate = found[name]
        assert estimate is not None
        low, high = np.percentile(expected, (2.5, 97.5))
        assert (estimate.interval().low, estimate.interval().high) == pytest.approx(
            (low, high), abs=0.07 * (high - low)
        )
        assert estimate.replicates.mean() == pytest.approx(np.mean(expected), abs=0.03 * (high - low))


def test_the_scans_of_a_patient_are_drawn_together() -> None:
    patients = {"only": ["a", "b", "a", "b"]}
    run = stream({"only": [[0.0] * 4, [1.0, 0.0, -1.0, 0.0]]}, patients)
    final = Resampling({0: patients}, shared_patients=True).estimates({0: run})["final"]
    assert final is not None
    assert np.all(final.replicates == 0)
    apart = {"only": ["a", "b", "c", "d"]}
    run = stream({"only": run.values["only"]}, apart)
    assert width(Resampling({0: apart}, shared_patients=True).estimates({0: run})["final"]) > 0.5


def test_a_patient_of_many_scans_weighs_as_many() -> None:
    patients = {"only": ["a", "a", "a", "b"]}
    run = stream({"only": [[0.0] * 4, [1.0, 1.0, 1.0, 0.0]]}, patients)
    final = Resampling({0: patients}, shared_patients=True).estimates({0: run})["final"]
    assert final is not None
    assert final.value == 0.75
    assert set(final.replicates) == {0.0, 0.75, 1.0}  # b twice, one of each, a twice


@pytest.mark.parametrize("shared", [True, False])
def test_methods_a_constant_apart_differ_by_it_exactly_however_wide_their_own_intervals(shared: bool) -> None:
    worse = {s: some_values(s) for s in range(3)}
    better = {s: {site: v + 0.05 for site, v in sites.items()} for s, sites in worse.items()}
    draws = resampling(range(3), shared)
    a = draws.estimates({s: stream(v) for s, v in better.items()})["final"]
    b = draws.estimates({s: stream(v) for s, v in worse.items()})["final"]
    assert a is not None
    assert b is not None
    assert min(width(a), width(b)) > 0.05
    difference = (a - b).interval()
    assert list(difference.to_dict().values()) == pytest.approx([0.05] * 3)
    again = resampling(range(3), shared, rng_seed=1).estimates({s: stream(v) for s, v in worse.items()})["final"]
    assert again is not None
    assert width(a - again) > 0.05


@pytest.mark.parametrize("shared", [True, False])
def test_pairing_does_not_depend_on_the_order_of_runs_or_sites(shared: bool) -> None:
    turned = {site: PATIENTS[site] for site in reversed(SITES)}
    other = Resampling(dict.fromkeys((2, 0, 1), turned), shared_patients=shared, replicates=500)
    a = resampling(range(3), shared).estimates({s: stream(some_values(s)) for s in range(3)})["final"]
    b = other.estimates({s: stream(some_values(s), turned) for s in (1, 2, 0)})["final"]
    assert a is not None
    assert b is not None
    np.testing.assert_allclose(a.replicates, b.replicates)


def test_patients_that_all_seeds_share_do_not_average_out_over_seeds() -> None:
    same = some_values(0)
    runs = {s: stream(same) for s in range(4)}
    crossed = width(resampling(range(4), True, 4000).estimates(runs)["final"])
    nested = width(resampling(range(4), False, 4000).estimates(runs)["final"])
    alone = width(resampling([0], True, 4000).estimates({0: runs[0]})["final"])
    assert crossed == pytest.approx(alone, rel=0.1)
    assert nested == pytest.approx(alone / 2, rel=0.1)


def test_seeds_spread_an_interval_even_where_patients_do_not() -> None:
    runs = {s: stream({site: np.full((4, len(p)), float(s)) for site, p in PATIENTS.items()}) for s in (0, 3)}
    final = resampling([0, 3]).estimates(runs)["final"]
    assert final is not None
    assert final.value == 1.5
    assert set(final.replicates) == {0.0, 1.5, 3.0}


def test_a_site_is_scored_on_the_student_that_it_deploys() -> None:
    values = {site: np.array([[0.0], [0.1], [0.2], [0.3]]) + np.zeros(len(p)) for site, p in PATIENTS.items()}
    deployed = {"north": 1, "east": 2, "south": 3}
    found = resampling([0]).estimates({0: stream(values, deployed=deployed)})
    spread = (2 * 0.1**2 / 3) ** 0.5
    for name, expected in (("final", 0.2), ("worst", 0.1), ("spread", spread)):
        estimate = found.pop(name)
        assert estimate is not None
        assert estimate.interval().to_dict() == pytest.approx(dict.fromkeys(("value", "low", "high"), expected))
    assert set(found.values()) == {None}


def test_a_run_without_stream_scores_has_scores_of_its_end_only() -> None:
    pooled = stream({site: np.ones((2, len(p))) for site, p in PATIENTS.items()})
    found = resampling([0]).estimates({0: pooled})
    assert [value(found.pop(name)) for name in ("final", "worst", "spread")] == [1, 1, 0]
    assert set(found.values()) == {None}

    whole = stream(some_values(1))
    mixed = resampling([0, 1]).estimates({0: pooled, 1: whole})
    sites = [(1 + v[-1].mean()) / 2 for v in whole.values.values()]
    expected = [np.mean(sites), min(sites), np.std(sites)]
    assert [value(mixed.pop(name)) for name in ("final", "worst", "spread")] == pytest.approx(expected)
    assert set(mixed.values()) == {None}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_worst_site_and_the_spread_are_those_of_each_site_s_own_replicates(
    shared: bool, higher_is_better: bool
) -> None:
    """All other sites at 0, a stream's final score is a third of one site's: so each has its replicates by itself."""
    draws = resampling(range(3), shared)
    values = {seed: some_values(seed) for seed in range(3)}
    whole = draws.estimates({s: stream(v, higher_is_better=higher_is_better) for s, v in values.items()})
    alone = [
        draws.estimates({s: stream({o: v * (o == site) for o, v in of.items()}) for s, of in values.items()})["final"]
        for site in SITES
    ]
    replicates = 3 * np.stack([one.replicates for one in alone if one is not None])
    as_is = 3 * np.array([value(one) for one in alone])
    extreme = np.min if higher_is_better else np.max
    for name, of_sites in (("worst", extreme), ("spread", np.std)):
        estimate = whole[name]
        assert estimate is not None
        assert estimate.value == pytest.approx(of_sites(as_is, axis=0))
        np.testing.assert_allclose(estimate.replicates, of_sites(replicates, axis=0))
        low, high = np.percentile(of_sites(replicates, axis=0), (2.5, 97.5))
        assert (estimate.interval().low, estimate.interval().high) == pytest.approx((low, high))
    assert len(set(replicates.argmin(0))) > 1, "the worst of one replicate is not that of every other"


def test_seeds_average_before_the_worst_site_is_looked_for() -> None:
    """Each seed has another worst site at 0.2; over both seeds no site is below 0.5."""
    of_seed = {0: {"north": 0.2, "east": 0.8, "south": 0.9}, 1: {"north": 0.8, "east": 0.2, "south": 0.9}}
    runs = {
        seed: stream({site: np.full((4, len(PATIENTS[site])), dice) for site, dice in sites.items()})
        for seed, sites in of_seed.items()
    }
    found = resampling([0, 1]).estimates(runs)
    assert value(found["worst"]) == pytest.approx(0.5)
    assert value(found["spread"]) == pytest.approx(np.sqrt((2 * 0.5**2 + 0.9**2) / 3 - (1.9 / 3) ** 2))


def test_runs_of_other_patients_or_seeds_are_refused_by_name() -> None:
    moved = {**PATIENTS, "east": ["d", "d", "e", "e", "f"]}
    good = stream(some_values(0))
    with pytest.raises(ValueError, match="seed 1, east"):
        resampling([0, 1]).estimates({0: good, 1: stream(some_values(0), moved)})
    two = {site: PATIENTS[site] for site in SITES[:2]}
    with pytest.raises(ValueError, match="seed 0, south"):
        resampling([0]).estimates({0: stream(some_values(0, two), two)})
    with pytest.raises(ValueError, match="seeds"):
        resampling([0, 1]).estimates({0: good})
    with pytest.raises(ValueError, match="seed 1, east"):
        Resampling({0: PATIENTS, 1: moved}, shared_patients=True)
    Resampling({0: PATIENTS, 1: moved}, shared_patients=False).estimates({0: good, 1: stream(some_values(0), moved)})


def test_nothing_to_draw_from_is_refused() -> None:
    with pytest.raises(ValueError, match="no seed"):
        Resampling({}, shared_patients=True)
    for shared in (True, False):
        with pytest.raises(ValueError, match="seed 0, empty: no patients"):
            Resampling({0: {"empty": []}}, shared_patients=shared)
        with pytest.raises(ValueError, match="seed 4: other sites than seed 2"):
            Resampling({2: PATIENTS, 4: {"elsewhere": ["a"]}}, shared_patients=shared)


def test_scores_that_do_not_fit_their_cases_are_refused() -> None:
    one = {"only": ["a", "b"]}
    with pytest.raises(ValueError, match="only"):
        stream({"only": np.zeros((2, 3))}, one)
    with pytest.raises(ValueError, match="b: "):
        stream({"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}, {"a": ["p"], "b": ["q"]})
    with pytest.raises(ValueError, match="row 2 of 2"):
        stream({"only": np.zeros((2, 2))}, one, {"only": 2})
    with pytest.raises(ValueError, match="same sites"):
        stream({"other": np.zeros((2, 2))}, one)


def test_draws_repeat_by_their_seed_only() -> None:
    runs = {s: stream(some_values(s)) for s in range(3)}
    first, again, other = (resampling(range(3), False, rng_seed=s).estimates(runs)["bwt"] for s in (3, 3, 4))
    assert first is not None
    assert again is not None
    assert other is not None
    np.testing.assert_array_equal(first.replicates, again.replicates)
    assert not np.array_equal(first.replicates, other.replicates)


@pytest.mark.parametrize(
    ("seeds", "shared", "known"),
    [((0,), True, False), ((0,), False, False), ((0, 1), True, False), ((0, 1), False, True)],
)
def test_a_single_patient_gives_no_interval_unless_every_seed_brings_one_of_its_own(
    seeds: tuple[int, ...], shared: bool, known: bool
) -> None:
    patients = {seed: {"a": ["p"], "b": ["q", "r"]} for seed in seeds}
    runs = {
        seed: StreamScores(
            {"a": np.full((3, 1), 0.1 * (seed + 1)), "b": np.full((3, 2), 0.5)}, patients[seed], {"a": 2, "b": 2}, True
        )
        for seed in seeds
    }
    final = Resampling(patients, shared_patients=shared, replicates=50).estimates(runs)["final"]
    assert final is not None
    interval = final.interval()
    assert (interval.low is not None) is known
    assert (interval.high is not None) is known
    assert interval.value == pytest.approx(np.mean([(0.1 * (seed + 1) + 0.5) / 2 for seed in seeds]))

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedserdiff.comparison.order_study import ORDERS, orders
from fedserdiff.comparison.records import RunRecord
from fedserdiff.comparison.studies import FirstHospital
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings

WriteRun = Callable[..., RunRecord]
SITES = tuple(Site(name, "brats2021", f"/{name}") for name in ("north", "west", "south", "east"))
NOBODY = FirstHospital([], [], [])


def test_orders_are_the_given_one_and_others_each_of_all_sites_and_the_same_again() -> None:
    found = orders(SITES)
    assert found[0] == SITES
    assert len(found) == len({order[0] for order in found}) == 3, "each begins with another hospital"
    assert all(
        sorted(order, key=lambda site: site.name) == sorted(SITES, key=lambda site: site.name) for order in found
    )
    assert orders(SITES) == found
    assert orders(SITES[:2]) == [SITES[:2], SITES[1::-1]], "two sites come in no more than two orders"


def test_every_method_meets_the_same_orders() -> None:
    config = make_settings("smoke", method="ser-diff", sites=SITES)
    by_method: dict[str, list[Any]] = {}
    for variant in ORDERS.variants(config, NOBODY).values():
        by_method.setdefault(variant.method.name, []).append(variant.sites)
    assert set(by_method) == {"fine-tune", "ser-diff", "ser-diff-plus", "lesion-replay", "rehearsal"}
    assert all(sites == orders(SITES) for sites in by_method.values())


def test_a_row_is_a_mean_over_orders_and_the_share_is_of_what_rehearsal_wins(write_run: WriteRun) -> None:
    config = make_settings("smoke", method="ser-diff", sites=SITES[:2])
    ends = {"fine-tune": (0.4, 0.6), "rehearsal": (0.6, 0.8), "lesion-replay": (0.5, 0.75)}  # of either order
    runs: dict[str, dict[int, RunRecord]] = {}
    for name, variant in ORDERS.variants(config, NOBODY).items():
        method, number = variant.method.name, int(name[-1]) - 1
        end = ends.get(method, (0.4, 0.6))[number]
        levels = [[0.1, 0.1], [0.8, 0.2], [end - 0.1, end + 0.1]]
        runs[name] = {seed: write_run(method, seed, levels, name=f"{name}-{seed}") for seed in (0, 1, 2)}
    result = ORDERS.describe(runs, True)
    rows = {row[0]: dict(zip(result["columns"], row, strict=True)) for row in result["rows"]}

    def of(method: str, cell: Callable[[np.ndarray], float]) -> float:
        """The mean over runs of a value of the matrix of R."""
        own = [run for name, by_seed in runs.items() if name.startswith(f"{method},") for run in by_seed.values()]
        return 100 * float(np.mean([cell(np.array(run.results["R"]["dice"]["mean"])) for run in own]))

    for method, row in rows.items():
        assert row["first site"] == pytest.approx(of(method, lambda matrix: matrix[-1, 0]))
        assert row["worst site"] == pytest.approx(of(method, lambda matrix: matrix[-1].min()))
        assert row["on arrival"] == pytest.approx(of(method, lambda matrix: matrix[2, 1]))
        finals = of(method, lambda matrix: matrix[-1].mean())
        assert row["Dice % [95 %]"].startswith(f"{finals:.1f} [")
    by_hand = [[run.results["R"]["dice"]["et"][2][0] for run in runs[f"rehearsal, order {n}"].values()] for n in (1, 2)]
    assert rows["rehearsal"]["first site's ET after later stages"] == pytest.approx(100 * np.mean(by_hand))
    assert rows["lesion-replay"]["% of rehearsal's gain"] == pytest.approx(62.5)  # (0.1 + 0.15) / (0.2 + 0.2)
    assert rows["rehearsal"]["% of rehearsal's gain"] == pytest.approx(100)


def test_no_share_is_said_where_rehearsal_wins_nothing(write_run: WriteRun) -> None:
    config = make_settings("smoke", method="ser-diff", sites=SITES[:2])
    levels = [[0.1, 0.1], [0.8, 0.2], [0.5, 0.7]]
    runs = {
        name: {seed: write_run(variant.method.name, seed, levels, name=f"{name}-{seed}") for seed in (0, 1)}
        for name, variant in ORDERS.variants(config, NOBODY).items()
    }
    result = ORDERS.describe(runs, True)
    assert all(row[2] is None for row in result["rows"])

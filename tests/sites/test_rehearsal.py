from pathlib import Path
from typing import Any

import pytest

from fedserdiff.data.cache import CachedCase
from fedserdiff.data.cases import Case
from fedserdiff.data.releases import RELEASES
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from sites.hospital import Hospital
from sites.objectives.rehearsal import RehearsalObjective, buffer

NAMES = ("north", "east", "west")
SITES = tuple(Site(name, "brats2021", f"/scans/{name}") for name in NAMES)
Rehearsal = dict[Site, Hospital]


def smoke(**changes: Any) -> Settings:
    return make_settings("smoke", changes, method="rehearsal", sites=SITES)


def hospital(site: Site, patients: int) -> Hospital:
    """A hospital whose every third patient has three scans; two more patients are held out. It has no images."""

    def scans(patient: str, count: int) -> list[CachedCase]:
        cases = (Case(f"{patient}-{number}", patient, (), Path(), RELEASES["brats2021"]) for number in range(count))
        return [CachedCase(case, None) for case in cases]  # type: ignore[arg-type]

    names = [f"{site.name}-{number:02}" for number in range(patients)]
    training = [scan for number, name in enumerate(names) for scan in scans(name, 1 if number % 3 else 3)]
    test = [scan for name in ("a", "b") for scan in scans(f"{site.name}-{name}", 2)]
    return Hospital(site, tuple(training), tuple(test))


@pytest.fixture
def hospitals() -> Rehearsal:
    return {site: hospital(site, patients) for site, patients in zip(SITES, (10, 12, 9), strict=True)}


def names(cases: list[CachedCase] | tuple[CachedCase, ...]) -> list[str]:
    return [cached.case.name for cached in cases]


def trained_on(hospitals: Rehearsal, site: Site, stage: int, **changes: Any) -> list[str]:
    objective = RehearsalObjective(smoke(**changes))
    return names(list(objective.training_cases(hospitals[site], stage, hospitals.__getitem__)))


@pytest.mark.parametrize(
    ("patients", "share", "kept"), [(10, 0.3, 3), (12, 0.25, 3), (7, 1.0, 7), (10, 0.05, 1), (1, 0.25, 1), (2, 0.25, 1)]
)
def test_a_site_leaves_its_share_of_patients_with_all_of_their_scans(patients: int, share: float, kept: int) -> None:
    one = hospital(SITES[0], patients)
    left = buffer(one, smoke(**{"method.share": share}))
    who = {cached.case.patient for cached in left}
    assert len(who) == kept
    assert left == [cached for cached in one.training if cached.case.patient in who]
    assert not {cached.case for cached in left} & {cached.case for cached in one.test}


def test_the_first_hospital_trains_on_its_own_cases_alone(hospitals: Rehearsal) -> None:
    assert trained_on(hospitals, SITES[0], 1) == names(hospitals[SITES[0]].training)


def test_a_stage_trains_on_every_earlier_sites_buffer_and_its_own_cases(hospitals: Rehearsal) -> None:
    left = [names(buffer(hospitals[site], smoke())) for site in SITES]
    own = [names(hospitals[site].training) for site in SITES]
    assert trained_on(hospitals, SITES[1], 2) == left[0] + own[1]
    assert trained_on(hospitals, SITES[2], 3) == left[0] + left[1] + own[2]


def test_neither_a_test_case_nor_a_later_sites_is_ever_taken(hospitals: Rehearsal) -> None:
    held_out = {name for one in hospitals.values() for name in names(one.test)}
    for stage, site in enumerate(SITES, 1):
        taken = set(trained_on(hospitals, site, stage, **{"method.share": 1.0}))
        assert not taken & held_out
        expected = {name for earlier in SITES[:stage] for name in names(hospitals[earlier].training)}
        assert taken == expected


def test_an_earlier_site_that_trains_again_meets_its_own_cases_once(hospitals: Rehearsal) -> None:
    """Cumulative participation: the buffers are those of the other sites."""
    own = names(hospitals[SITES[0]].training)
    taken = trained_on(hospitals, SITES[0], 3, **{"training.participation": "cumulative"})
    assert taken == names(buffer(hospitals[SITES[1]], smoke())) + own
    assert len(taken) == len(set(taken))


def test_a_site_leaves_the_same_patients_whenever_it_is_asked_and_others_by_seed(hospitals: Rehearsal) -> None:
    one = hospitals[SITES[1]]
    by_seed = [tuple(names(buffer(one, smoke(seed=seed)))) for seed in range(5)]
    assert by_seed == [tuple(names(buffer(one, smoke(seed=seed)))) for seed in range(5)]
    assert len(set(by_seed)) > 1


def test_hospitals_of_one_size_do_not_all_leave_the_same_places_of_their_lists() -> None:
    alike = [hospital(site, 12) for site in SITES]
    assert len({tuple(int(cached.case.patient[-2:]) for cached in buffer(one, smoke())) for one in alike}) > 1

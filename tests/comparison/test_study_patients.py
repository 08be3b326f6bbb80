"""No study scores a test patient, because settings are chosen by studies."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fedserdiff.comparison.studies import VALIDATION_SHARE, FirstHospital, scored_on_validation
from fedserdiff.data.cache import CachedCase
from fedserdiff.errors import ConfigError
from fedserdiff.experiments import comparison
from fedserdiff.experiments.opened_federation import Federation, open_federation, scans_of
from fedserdiff.experiments.studies import STUDIES, get_study
from fedserdiff.federation import phantom_federation
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from sites.hospital import open_hospital

CONFIG = make_settings(
    "smoke",
    {
        "data.phantom_stream": "contrast",  # hospitals of equal size
        "data.phantom_patients": 8,
        "data.grid": (16, 16, 16),
        "data.spacing_mm": 12.0,
    },
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def opened(config: Settings, cache: Path) -> Federation:
    return open_federation(config, phantom_federation(2, config, cache / "phantom"), cache / "cases")


def names(cases: Sequence[CachedCase]) -> set[str]:
    return {cached.case.name for cached in cases}


@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_of_a_study_scores_validation_patients_alone(name: str, cache: Path) -> None:
    plain = {hospital.site.name: hospital for hospital in opened(CONFIG, cache).hospitals}
    federation = opened(scored_on_validation(CONFIG), cache)
    one = federation.hospitals[0]
    variants = get_study(name).variants(federation.config, FirstHospital(one.training, one.validation, one.test))
    assert variants
    scored = set()
    for config in variants.values():
        for site in config.sites:
            hospital = open_hospital(site, config, cache / "cases")
            assert names(hospital.test) == names(plain[site.name].test), "who is tested on does not move"
            assert len(hospital.scored(config)) == 2, "a quarter of eight"
            assert names(hospital.scored(config)) < names(plain[site.name].training)
            assert not names(hospital.scored(config)) & names((*hospital.training, *hospital.test))
            scored.add((site.name, *sorted(names(hospital.scored(config)))))
    assert len(scored) == 2, "the same patients in every variant"


def test_a_study_keeps_a_share_that_the_settings_name() -> None:
    assert scored_on_validation(CONFIG).data.validation_share == VALIDATION_SHARE == 0.25
    named = scored_on_validation(CONFIG.replace({"data.validation_share": 0.1}))
    assert (named.data.validation_share, named.scoring.patients) == (0.1, "validation")
    with pytest.raises(ConfigError, match=r"0.75 and 0.25 leave no patients to train on"):
        scored_on_validation(CONFIG.replace({"data.test_share": 0.75}))


def test_a_run_of_a_study_is_no_run_of_a_comparison_but_both_stand_on_one_page(cache: Path) -> None:
    """The runs share scans and test patients; a run with other test patients counts as a run on other scans."""
    plain, study = (opened(config, cache) for config in (CONFIG, scored_on_validation(CONFIG)))
    seals = [scans_of(federation.hospitals) for federation in (plain, study)]
    assert all(seals[0][site] != seals[1][site] for site in seals[0])
    assert seals[1] == study.scans_of(study.config)
    on_page = [comparison._origin({0: federation})["scans"] for federation in (plain, study)]
    assert on_page[0] == on_page[1] == {"0": dict(seals[0])}
    fewer = opened(CONFIG.replace({"data.test_share": 0.4}), cache)
    assert comparison._origin({0: fewer})["scans"] != on_page[0]

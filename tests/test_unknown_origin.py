"""When a run scores scans of unknown origin."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from fedserdiff.data.cache import CachedCase
from fedserdiff.experiments.opened_federation import Federation
from fedserdiff.experiments.unknown_origin import depends_on_origin
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings
from sites.hospital import Hospital


def federation(method: str, scans: Sequence[int]) -> Federation:
    """Hospitals with so many training scans."""
    sites = tuple(Site(f"site-{place}", "brats2021", str(Path("/data"))) for place in range(len(scans)))
    case = cast(CachedCase, SimpleNamespace())
    hospitals = tuple(Hospital(site, (case,) * count, (case,)) for site, count in zip(sites, scans, strict=True))
    return Federation(make_settings("smoke", method=method, sites=sites), hospitals, ())


@pytest.mark.parametrize(
    ("method", "scans", "departed", "expected"),
    [
        ("fedbn", (2, 2), (), True),
        ("fedper", (2, 2), (), True),
        ("ser-diff-plus", (2, 2), (), True),
        ("ser-diff-plus+ewc", (2, 2), (), True),
        ("lesion-replay", (2, 2), (), False),
        ("fedbn", (8,), (), False),
        ("fedbn", (1, 1), (), False),
        ("fedbn", (1, 1, 2), (), True),
        ("fedbn", (2, 2), ("site-1",), False),
        ("fedbn", (1, 1, 9), ("site-2",), False),
    ],
)
def test_it_takes_something_kept_several_hospitals_at_the_end_and_more_scans_than_hospitals(
    method: str, scans: tuple[int, ...], departed: tuple[str, ...], expected: bool
) -> None:
    assert depends_on_origin(federation(method, scans), departed) is expected

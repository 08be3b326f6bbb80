"""Patients or scans that two sites share: releases overlap, and a leak into the test set inflates every score."""

import dataclasses
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fedserdiff.data.cache import CachedCase

VOXELS = "same brain voxels"
PATIENT_ID = "same patient id"
NAME_MAPPING = "name mapping"
ANOTHER_SCAN = "same brain voxels of another scan"
"""The patient is the same, as shown by the voxels of another of their scans."""

_Place = tuple[str, str]  # a site, and a patient's id there
_NO_MAPPING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Overlap:
    """A case of `site` whose patient `first_site` has already contributed as `first_case`.

    If `found_by` is `VOXELS`, `first_case` is the same scan; otherwise it is a scan of the same patient. `found_by`
    lists, separated by commas, the identities that link the two. There are several if the sites know the patient by
    different names.
    """

    site: str
    case: str
    first_site: str
    first_case: str
    found_by: str

    def __str__(self) -> str:
        is_ = "is" if self.found_by == VOXELS else "is of the same patient as"
        return f"{self.site}: {self.case} {is_} {self.first_case}, which {self.first_site} brought first" + (
            f" ({self.found_by})"
        )


def find_overlap(
    sites: Mapping[str, Sequence[CachedCase]], same_patient: Mapping[str, str] = _NO_MAPPING
) -> list[Overlap]:
    """Return the cases to leave out so that each patient stays at the first site that has them, under one name.

    Two patients are the same if they share a patient id, the canonical brain voxels of a scan, or a person in
    `same_patient`. This is transitive, across any number of sites and names. If a patient has two names within a site,
    only the first is kept: their scans cannot be told apart otherwise, and the split into training and test goes by
    name (our choice). All scans of a patient are kept or left out together.

    Parameters
    ----------
    sites : mapping
        Cases by site, in order of arrival.
    same_patient : mapping of str to str
        Person of each patient id, as `fedserdiff.data.name_mapping.read_name_mapping` returns it.

    Returns
    -------
    list of Overlap
        Ordered by site, then in the order of its cases.
    """
    cases: dict[_Place, list[CachedCase]] = {}
    for site, own in sites.items():
        for cached in own:
            cases.setdefault((site, cached.case.patient), []).append(cached)
    reached = _reached(cases, same_patient)
    overlaps = []
    for site, own in sites.items():
        for cached in own:
            first, steps = reached[site, cached.case.patient]
            if first != (site, cached.case.patient):
                overlaps.append(_overlap(site, cached, first[0], cases[first], steps))
    return overlaps


def _reached(
    cases: Mapping[_Place, Sequence[CachedCase]], same_patient: Mapping[str, str]
) -> dict[_Place, tuple[_Place, tuple[str, ...]]]:
    """Return, for each place, the first place of the same patient, and the shortest chain of links back to it."""
    identities = {place: _identities(place[1], own, same_patient) for place, own in cases.items()}
    holders: dict[tuple[str, str], list[_Place]] = {}
    for place, own_identities in identities.items():
        for identity in own_identities:
            holders.setdefault(identity, []).append(place)
    reached: dict[_Place, tuple[_Place, tuple[str, ...]]] = {}
    for first in cases:
        if first in reached:
            continue
        reached[first] = first, ()
        queue = deque([first])
        while queue:  # breadth first: the shortest explanation
            here = queue.popleft()
            for identity in identities[here]:
                for place in holders.pop(identity, ()):  # all that share it are reached from here, or were already
                    if place not in reached:
                        reached[place] = first, (identity[0], *reached[here][1])
                        queue.append(place)
    return reached


def _identities(patient: str, own: Sequence[CachedCase], same_patient: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the identities of a patient at a site, the strongest evidence first."""
    found = [(VOXELS, cached.prepared.voxel_hash) for cached in own]
    found.append((PATIENT_ID, patient))
    return [*found, (NAME_MAPPING, same_patient[patient])] if patient in same_patient else found


def _overlap(
    site: str, cached: CachedCase, first_site: str, of_first: Sequence[CachedCase], steps: Sequence[str]
) -> Overlap:
    name, voxels = cached.case.name, cached.prepared.voxel_hash
    for other in of_first:
        if other.prepared.voxel_hash == voxels:
            return Overlap(site, name, first_site, other.case.name, VOXELS)
    kinds = list(dict.fromkeys(steps))
    return Overlap(
        site, name, first_site, of_first[0].case.name, ANOTHER_SCAN if kinds == [VOXELS] else ", ".join(kinds)
    )


def overlap_record(overlaps: Sequence[Overlap], kept: bool) -> dict[str, Any]:
    """Return the ``overlap`` entry of a run's ``results.json``.

    Returns
    -------
    dict
        ``leaks``: whether the run contains patients twice; ``left_out`` and ``kept``: number of cases by site, without
        sites that have none; ``cases``: the details of each. A coordinator that may not know names has everything
        except ``cases``.
    """
    counts = dict(Counter(overlap.site for overlap in overlaps))
    return {
        "leaks": bool(overlaps) and kept,
        "left_out": {} if kept else counts,
        "kept": counts if kept else {},
        "cases": [dataclasses.asdict(overlap) for overlap in overlaps],
    }

"""The same patient or scan at two places: the releases overlap, and a leak into the test set flatters every score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedserdiff.data.cache import CachedCase


@dataclass(frozen=True)
class Overlap:
    """A case that is left out of `site`, because `first_site` brought its patient before, as `first_case`."""

    site: str
    case: str
    first_site: str
    first_case: str

    def __str__(self) -> str:
        return f"{self.site}: {self.case} is {self.first_case}, which {self.first_site} brought first"


def find_overlap(sites: Mapping[str, Sequence[CachedCase]]) -> list[Overlap]:
    """Return every case to leave out so that each patient stays at the first site that brings it.

    Two cases are one patient's where their patient identities are equal, or where their canonical brain voxels are
    (the same scan under two releases' names, or twice in one site). All of a patient's scans share its fate.

    Parameters
    ----------
    sites : mapping
        Cases by site, in order of arrival.
    """
    owner_of_patient: dict[str, tuple[str, str]] = {}  # patient -> (site, a case)
    owner_of_voxels: dict[str, tuple[str, str, str]] = {}  # hash -> (site, case, patient)
    overlaps = []
    for site, cases in sites.items():
        taken: dict[str, tuple[str, str]] = {}  # patient at this site -> earlier (site, case)
        for cached in cases:
            patient, voxels = cached.case.patient, cached.prepared.voxel_hash
            earlier = owner_of_patient.get(patient)
            if earlier is not None and earlier[0] != site:
                taken.setdefault(patient, earlier)
            same = owner_of_voxels.get(voxels)
            if same is not None and (same[0] != site or same[2] != patient):
                taken.setdefault(patient, same[:2])
            owner_of_patient.setdefault(patient, (site, cached.case.name))
            owner_of_voxels.setdefault(voxels, (site, cached.case.name, patient))
        overlaps += [Overlap(site, c.case.name, *taken[c.case.patient]) for c in cases if c.case.patient in taken]
    return overlaps

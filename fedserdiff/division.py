"""The division of a folder's cases among hospitals, according to a table, and the resulting federation file."""

import datetime
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from fedserdiff.data.case_table import TableRow
from fedserdiff.data.cases import BadCases, find_cases, settle
from fedserdiff.data.decathlon import MSD, TABLE, DecathlonDataset, find_decathlon_cases, read_dataset
from fedserdiff.data.layout import look
from fedserdiff.data.releases import (
    BRATS_MODALITIES,
    BRATS_REGIONS,
    FILE_END,
    RELEASES,
    Convention,
    Release,
    release_or_file,
)
from fedserdiff.errors import ConfigError, Faults
from fedserdiff.experiment_file import site_lines
from fedserdiff.settings.experiment import CASE_FIELDS, Site
from fedserdiff.settings.sources import as_toml


class ArrivalOrder(StrEnum):
    """The order in which hospitals arrive: most cases first, as listed in the table, or earliest case first."""

    SIZE = "size"
    LISTED = "listed"
    DATE = "date"


@dataclass(frozen=True)
class FoundCases:
    """The cases of a folder: their convention, the patient of each by name, and those that cannot be used."""

    convention: Convention
    patients: Mapping[str, str]
    bad: BadCases


@dataclass(frozen=True)
class Share:
    """One hospital's share of the cases.

    Attributes
    ----------
    name : str
        Name that is valid in a federation file.
    institution : str
        Name in the table.
    cases, test_cases, validation_cases : tuple of str
        Case names, sorted. Those held out are empty if a share of the patients is to be held out instead.
    date : date
        Date of the earliest case; `date.max` if no case has one.
    """

    name: str
    institution: str
    cases: tuple[str, ...]
    test_cases: tuple[str, ...] = ()
    validation_cases: tuple[str, ...] = ()
    date: datetime.date = datetime.date.max


@dataclass(frozen=True)
class Division:
    """The division of cases by a table: hospitals in order of arrival, and the cases that belong to none.

    Attributes
    ----------
    hospitals : tuple of Share
        Hospitals in the federation file.
    small : tuple of Share
        Hospitals with too few cases or patients.
    not_there : tuple of str
        Names in the table without a usable case in the folder.
    nobodys : tuple of str
        Cases of the folder that the table assigns to nobody.
    """

    hospitals: tuple[Share, ...]
    small: tuple[Share, ...]
    not_there: tuple[str, ...]
    nobodys: tuple[str, ...]


def find_release(folder: Path) -> str:
    """Return the only release whose naming the cases of a folder follow.

    Raises
    ------
    DataError
        If the folder cannot be read.
    ConfigError
        If there is no such release, or several.
    """
    named = [name for name, release in RELEASES.items() if look(folder, release).places]
    named += [MSD] if (folder / TABLE).is_file() else []
    if len(named) != 1:
        what = f"its cases are named as in {' and '.join(named)}" if named else "it holds no case of a known release"
        raise ConfigError(f"{folder}: {what}: name the release with --release")
    return named[0]


def find_all(folder: Path, release: str) -> FoundCases:
    """Find the cases of a folder by their file names.

    Raises
    ------
    ConfigError
        As for `release_or_file`.
    DataError
        As for `find_cases` and `find_decathlon_cases`.
    BadCasesError
        If no case can be used.
    """
    bad: BadCases = {}
    convention: Release | DecathlonDataset
    if release == MSD:
        convention = read_dataset(folder)
        cases = find_decathlon_cases(folder, convention, (), bad)
    else:
        convention = release_or_file(release)
        cases = find_cases(folder, convention, (), bad)
    if not cases:
        settle(bad, None)
    return FoundCases(convention, {case.name: case.patient for case in cases}, bad)


def divide(rows: Sequence[TableRow], found: FoundCases, minimum: int, patients: int, order: ArrivalOrder) -> Division:
    """Assign each case to the hospital that the table names; a hospital needs `minimum` cases and `patients` patients.

    Raises
    ------
    ConfigError
        If two institutions would get the same name, or a table that lists patients and cases assigns one case to two.
    """
    of_patient: dict[str, list[str]] = {}
    for case, patient in found.patients.items():
        of_patient.setdefault(patient, []).append(case)
    owners: dict[str, str] = {}
    dates: dict[str, datetime.date] = {}
    not_there = []
    for row in rows:
        cases = [row.name] if row.name in found.patients else of_patient.get(row.name, [])
        if not cases:
            not_there.append(row.name)
        for case in cases if row.institution else ():
            if owners.setdefault(case, row.institution) != row.institution:
                raise ConfigError(f"line {row.line}: {case} is of {row.institution} here, and before of {owners[case]}")
        if row.institution and row.date is not None and cases:
            dates[row.institution] = min(row.date, dates.get(row.institution, row.date))
    shares = [
        Share(
            _site_name(institution),
            institution,
            tuple(sorted(case for case, owner in owners.items() if owner == institution)),
            date=dates.get(institution, datetime.date.max),
        )
        for institution in dict.fromkeys(owners.values())
    ]
    _check_names(shares)
    if order is not ArrivalOrder.LISTED:
        shares.sort(key=lambda share: -len(share.cases) if order is ArrivalOrder.SIZE else share.date.toordinal())
    enough = [
        len(share.cases) >= minimum and len({found.patients[case] for case in share.cases}) >= patients
        for share in shares
    ]
    return Division(
        hospitals=tuple(share for share, many in zip(shares, enough, strict=True) if many),
        small=tuple(share for share, many in zip(shares, enough, strict=True) if not many),
        not_there=tuple(not_there),
        nobodys=tuple(sorted(set(found.patients) - set(owners))),
    )


def hold_out_listed(division: Division, listed: Mapping[str, Collection[str]], found: FoundCases) -> Division:
    """Hold out the patients that lists name, directly or by a case; all of a patient's scans are held out.

    Parameters
    ----------
    division : Division
        Division whose hospitals do not hold out anybody by name yet.
    listed : mapping
        List of names for each field of a site, ``test_cases`` or ``validation_cases``.
    found : FoundCases
        Cases with their patients.

    Raises
    ------
    ConfigError
        If patients are on both lists, a list has no patient of a hospital, or a hospital would have none left for
        training. The message names all of them.
    """
    patients = {field: {found.patients.get(name, name) for name in names} for field, names in listed.items()}
    faults = Faults(ConfigError)
    if len(patients) > 1 and (twice := sorted(set.intersection(*patients.values()))):
        faults.add(f"{', '.join(twice)}: on both lists, for testing and for validation")
    hospitals = []
    for share in division.hospitals:
        held_out = {
            field: tuple(case for case in share.cases if found.patients[case] in wanted)
            for field, wanted in patients.items()
        }
        if sum(map(len, held_out.values())) >= len(share.cases):
            faults.add(f"{share.name}: every patient of this hospital is listed: leave some for training")
        for field in [field for field, cases in held_out.items() if not cases]:
            faults.add(f"{share.name}: no patient of this hospital is listed for its {field}: add at least one")
        hospitals.append(
            replace(
                share,
                test_cases=held_out.get("test_cases", ()),
                validation_cases=held_out.get("validation_cases", ()),
            )
        )
    faults.check()
    return replace(division, hospitals=tuple(hospitals))


def federation_text(
    division: Division, found: FoundCases, release: str, folder: Path, out: Path, shares: Mapping[str, float]
) -> str:
    """Return the text of the federation file `out`; paths in it are relative to its folder.

    `shares` are the shares of patients to hold out, by the name of their setting in the group ``data``.
    """
    base = out.parent.resolve()
    stated = os.path.relpath(Path(release).resolve(), base) if release.endswith(FILE_END) else release
    cases = sum(len(share.cases) for share in division.hospitals)
    lines = [f"# {len(division.hospitals)} hospitals in order of arrival, {cases} cases of {found.convention.name}."]
    agreed = (("modalities", found.convention.modalities, BRATS_MODALITIES),)
    for name, own, usual in (*agreed, ("regions", tuple(found.convention.regions), BRATS_REGIONS)):
        if own != usual:
            lines.append(f"{name} = {as_toml(own)}")
    if shares:
        lines += ["", "[data]", *(f"{name} = {share:g}" for name, share in shares.items())]
    for share in division.hospitals:
        named = {field: getattr(share, field) for field in CASE_FIELDS}
        lines += ["", *site_lines(Site(share.name, stated, os.path.relpath(folder.resolve(), base), **named))]
    return "\n".join(lines) + "\n"


def _site_name(institution: str) -> str:
    """Return an institution's name as a valid site name; a bare number gets the prefix ``site-``."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", institution).strip("-.") or "site"
    return f"site-{plain}" if plain.isdecimal() else plain


def _check_names(shares: Sequence[Share]) -> None:
    by_name: dict[str, str] = {}
    for share in shares:
        other = by_name.setdefault(share.name, share.institution)
        if other != share.institution:
            raise ConfigError(f"{other!r} and {share.institution!r} would both be site {share.name}: rename one")

"""Name mappings: the tables in which challenges publish which names in several releases are the same patient."""

from pathlib import Path

from fedserdiff.data.releases import RELEASES
from fedserdiff.errors import ConfigError
from fedserdiff.text import read_rows


def read_name_mapping(file: Path) -> dict[str, str]:
    """Read a CSV file in which each row names one patient in several releases.

    It reads BraTS 2020's ``name_mapping.csv`` and the mapping of BraTS 2023's glioma cases, exported as CSV. Columns
    may have any name and order. Every cell that is a case name of a known release counts; all others (``NA``, grades,
    TCGA ids) are ignored. Rows that share a patient belong to the same person.

    Returns
    -------
    dict of str to str
        Person of each patient id (`Release.patient_of`). A person is identified by one of their patient ids.

    Raises
    ------
    ConfigError
        As for `read_rows`, and if the file holds no case name.
    """
    rows = read_rows(file)
    persons: dict[str, str] = {}
    for _, row in rows:
        _join(persons, [patient for cell in row if (patient := _patient_of(cell))])
    if not persons:
        examples = ", ".join(dict.fromkeys(release.example for release in RELEASES.values()))
        lines = rows[-1][0] if rows else 0
        raise ConfigError(
            f"{file}: no case name in any of its {lines} lines: expected rows with names such as {examples}"
        )
    return {patient: _person(persons, patient) for patient in persons}


def _patient_of(cell: str) -> str | None:
    return next((patient for release in RELEASES.values() if (patient := release.patient_of(cell))), None)


def _person(persons: dict[str, str], patient: str) -> str:
    while persons[patient] != patient:
        patient = persons[patient]
    return patient


def _join(persons: dict[str, str], patients: list[str]) -> None:
    """Merge the patients of a row into one person (union-find: each patient points to another, or to itself)."""
    for patient in patients:
        persons.setdefault(patient, patient)
        persons[_person(persons, patient)] = _person(persons, patients[0])

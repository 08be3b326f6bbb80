"""Which names of several releases are one patient's: the tables that the challenges publish."""

from pathlib import Path

from fedserdiff.data.releases import RELEASES
from fedserdiff.errors import ConfigError
from fedserdiff.text import read_rows


def read_name_mapping(file: Path) -> dict[str, str]:
    """Read a CSV whose rows name one patient each, in as many releases as have it.

    Made for BraTS 2020's ``name_mapping.csv`` and for the mapping of BraTS 2023's glioma cases, exported as CSV.
    Columns may have any name and order: every cell that is a case name of a release we know counts, all others (``NA``,
    grades, TCGA's ids) are passed over. Rows that share a patient are one person's.

    Returns
    -------
    dict of str to str
        By patient id (`Release.patient_of`), the person: one of the person's patient ids, the same for all of them.

    Raises
    ------
    ConfigError
        As `read_rows`, and where the file holds no case name.
    """
    rows = read_rows(file)
    persons: dict[str, str] = {}
    for _, row in rows:
        _join(persons, [patient for cell in row if (patient := _patient_of(cell))])
    if not persons:
        examples = ", ".join(dict.fromkeys(release.example for release in RELEASES.values()))
        lines = rows[-1][0] if rows else 0
        raise ConfigError(
            f"{file}: none of its {lines} lines has a case name: a name mapping's rows hold names such as {examples}"
        )
    return {patient: _person(persons, patient) for patient in persons}


def _patient_of(cell: str) -> str | None:
    return next((patient for release in RELEASES.values() if (patient := release.patient_of(cell))), None)


def _person(persons: dict[str, str], patient: str) -> str:
    while persons[patient] != patient:
        patient = persons[patient]
    return patient


def _join(persons: dict[str, str], patients: list[str]) -> None:
    """Make the patients of a row one person: each knows another, or itself, on the way to the person."""
    for patient in patients:
        persons.setdefault(patient, patient)
        persons[_person(persons, patient)] = _person(persons, patients[0])

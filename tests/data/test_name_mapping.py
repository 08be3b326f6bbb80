"""Names that belong to one patient, read from the tables that challenges publish."""

import re
from pathlib import Path

import pytest

from fedserdiff.data.name_mapping import read_name_mapping
from fedserdiff.errors import ConfigError

# As published with BraTS 2020's training set, by header and kind of cell; the ids are made up.
OF_2020 = """\
Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,BraTS_2019_subject_ID,BraTS_2020_subject_ID
HGG,Brats17_CBICA_AAB_1,Brats18_CBICA_AAB_1,NA,BraTS19_CBICA_AAB_1,BraTS20_Training_001
LGG,Brats17_TCIA_101_1,Brats18_TCIA08_101_1,TCGA-02-0001,BraTS19_TCIA08_101_1,BraTS20_Training_002
HGG,NA,NA,NA,NA,BraTS20_Training_003
"""

# As the mapping of BraTS 2023's glioma cases, exported as CSV.
OF_2023 = """\
BraTS2023,BraTS2021,BraTS2020,BraTS2019,Site,Cohort Name (if publicly available)
BraTS-GLI-00000-000,BraTS2021_00000,BraTS20_Training_001,BraTS19_CBICA_AAB_1,UPENN,UPENN-GBM-00001
BraTS-GLI-00005-000,BraTS2021_00005,,,\"Somewhere, else\",
BraTS-GLI-00006-000, BraTS2021_00006 ,NA,NA,NA,NA
BraTS-GLI-00006-001,NA,NA,NA,NA,NA
"""


def write(folder: Path, content: str | bytes) -> Path:
    file = folder / "mapping.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def persons(mapping: dict[str, str]) -> list[list[str]]:
    """The patients of each person, by name; digits come before the underscore."""
    return sorted(sorted(p for p, person in mapping.items() if person == one) for one in set(mapping.values()))


def test_mapping_of_2020_joins_its_names_and_those_of_the_years_before(tmp_path: Path) -> None:
    assert persons(read_name_mapping(write(tmp_path, OF_2020))) == [
        ["BraTS19_CBICA_AAB", "BraTS20_Training_001", "Brats17_CBICA_AAB", "Brats18_CBICA_AAB"],
        ["BraTS19_TCIA08_101", "BraTS20_Training_002", "Brats17_TCIA_101", "Brats18_TCIA08_101"],
        ["BraTS20_Training_003"],
    ]


def test_mapping_of_2023_joins_the_names_of_four_releases(tmp_path: Path) -> None:
    assert persons(read_name_mapping(write(tmp_path, OF_2023))) == [
        ["BraTS-GLI-00000", "BraTS19_CBICA_AAB", "BraTS2021_00000", "BraTS20_Training_001"],
        ["BraTS-GLI-00005", "BraTS2021_00005"],
        ["BraTS-GLI-00006", "BraTS2021_00006"],
    ]


@pytest.mark.parametrize(
    "content",
    [
        OF_2023.replace("BraTS2023,BraTS2021", "first,second"),
        "\n".join(line.partition(",")[2] + "," + line.partition(",")[0] for line in OF_2023.splitlines()[:3]),
        OF_2023.partition("\n")[2],
        OF_2023.replace("\n", "\r\n"),
        "\ufeff" + OF_2023,
        OF_2023.replace("Somewhere, else", "Somewhere else").replace(",", ";"),
        OF_2023.replace("Somewhere, else", "Somewhere else").replace(",", "\t"),
    ],
    ids=["names of columns", "order", "no header", "line ends", "byte order mark", "semicolons", "tabs"],
)
def test_headers_order_and_a_spreadsheets_habits_do_not_matter(tmp_path: Path, content: str) -> None:
    assert persons(read_name_mapping(write(tmp_path, content)))[:2] == [
        ["BraTS-GLI-00000", "BraTS19_CBICA_AAB", "BraTS2021_00000", "BraTS20_Training_001"],
        ["BraTS-GLI-00005", "BraTS2021_00005"],
    ]


def test_rows_that_share_a_patient_are_one_persons_whatever_their_order(tmp_path: Path) -> None:
    rows = [
        "BraTS2021_00001,BraTS20_Training_001",
        "BraTS-GLI-00007-000,BraTS2021_00002",
        "BraTS-GLI-00007-001,BraTS20_Training_001",
        "BraTS2021_00009,BraTS20_Training_009",
    ]
    one = ["BraTS-GLI-00007", "BraTS2021_00001", "BraTS2021_00002", "BraTS20_Training_001"]
    for order in (rows, rows[::-1], [rows[2], rows[0], rows[3], rows[1]]):
        mapping = read_name_mapping(write(tmp_path, "\n".join(order)))
        assert persons(mapping) == [one, ["BraTS2021_00009", "BraTS20_Training_009"]]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no case name in any of its 0 lines: .* such as Brats17_CBICA_AAB_1, .*, BraTS2021_00000, "),
        ("Grade,Id\nHGG,brats_tcia_pat101_0001\nLGG,NA\n", "no case name in any of its 3 lines"),
        ("Id\nBraTS2021_1\nxBraTS2021_00001\nBraTS-GLI-00001\n", "no case name in any of its 4 lines"),
        (b"a,b\nBraTS2021_00001,x\n\xe9,y\n", r"line 3: not text in UTF-8 \(byte 0xe9\): save it as text in UTF-8"),
        (b"PK\x03\x04\xff\xfe", "line 1: not text in UTF-8"),
        ('a,b\nBraTS2021_00001,"x\n', "line 2: not a CSV table: unexpected end of data"),
        ('a,b\nBraTS2021_00001,"x"y\n', "line 2: not a CSV table: .* expected after"),
    ],
    ids=["empty", "older names", "not quite names", "latin-1", "workbook", "open quote", "text after a quote"],
)
def test_table_that_names_nobody_is_refused_with_file_and_line(tmp_path: Path, content: str | bytes, says: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}: {says}"):
        read_name_mapping(file)


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "gone.csv", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: cannot be read .{reason}"):
            read_name_mapping(path)

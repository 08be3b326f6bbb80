import json
from collections.abc import Callable

import pytest
from finished_runs import CASES

from fedserdiff.comparison.records import RunRecord, load_run
from fedserdiff.errors import ConfigError

WriteRun = Callable[..., RunRecord]
LEVELS = [[0.1, 0.1], [0.8, 0.2], [0.5, 0.7]]


def test_scores_by_case_have_the_means_that_stand_in_results_json(write_run: WriteRun) -> None:
    record = write_run("fine-tune", 0, LEVELS)
    for metric in ("dice", "hd95"):
        for column, site in enumerate(CASES):
            values = record.scores[metric].values[site]
            assert values.shape == (3, 3)
            for row in range(3):
                assert values[row].mean() == pytest.approx(record.results["R"][metric]["mean"][row][column])
    assert record.scores["dice"].higher_is_better
    assert not record.scores["hd95"].higher_is_better


def test_dice_of_each_region_is_that_of_the_student_a_site_uses(write_run: WriteRun) -> None:
    record = write_run("local", 0, LEVELS, deployed=[1, 2])
    assert list(record.dice_by_region) == ["tc", "wt", "et"]
    for region, scores in record.dice_by_region.items():
        matrix = record.results["R"]["dice"][region]
        assert [values.shape for values in scores.values.values()] == [(1, 3), (1, 3)]
        means = [values.mean() for values in scores.values.values()]
        assert means == pytest.approx([matrix[1][0], matrix[2][1]])


def test_a_row_that_is_missing_in_a_table_is_said_to_be(write_run: WriteRun) -> None:
    path = write_run("fine-tune", 0, LEVELS).path
    table = path / "hospitals" / "west" / "scores.csv"
    lines = table.read_text().splitlines()
    gone = next(line for line in lines if line.startswith("2,") and ",refined,et," in line)
    table.write_text("\n".join(line for line in lines if line != gone))
    with pytest.raises(ConfigError, match=r"scores\.csv of west does not cover every stage"):
        load_run(path)


def test_two_scans_are_one_patient_where_the_release_says_so(write_run: WriteRun) -> None:
    patients = write_run("fine-tune", 0, LEVELS).patients
    assert len(set(patients["north"])) == 3
    assert patients["west"][0] == patients["west"][1] != patients["west"][2]


def test_the_final_score_of_a_site_is_that_of_the_student_it_uses(write_run: WriteRun) -> None:
    last = write_run("fine-tune", 0, LEVELS)
    own = write_run("local", 0, LEVELS, deployed=[1, 2])
    matrix = last.results["R"]["dice"]["mean"]
    assert last.final("dice") == pytest.approx(matrix[2])
    assert own.final("dice") == pytest.approx([matrix[1][0], matrix[2][1]])


def test_scores_at_the_end_are_of_scans_of_unknown_origin_where_a_run_has_them(write_run: WriteRun) -> None:
    record = write_run("fedbn", 0, LEVELS, unknown=[0.3, 0.6])
    assert record.unknown_origin
    known = record.results["R"]["dice"]["mean"][2]  # of levels 0.5 and 0.7, for the same cases
    assert record.final("dice") == pytest.approx([known[0] - 0.2, known[1] - 0.1])
    assert record.final("hd95") == pytest.approx([100 * (1 - dice) for dice in record.final("dice")])
    for region, scores in record.dice_by_region.items():
        of_known = record.results["R"]["dice"][region][2]
        means = [values.mean() for values in scores.values.values()]
        assert means == pytest.approx([of_known[0] - 0.2, of_known[1] - 0.1])
    stream = record.scores["dice"].values["north"]
    assert stream[2].mean() == pytest.approx(known[0]), "R itself is of known origin"


def test_a_hospital_that_has_left_has_the_scores_of_its_own_student(write_run: WriteRun) -> None:
    record = write_run("fedbn", 0, LEVELS, unknown=[0.3, None])
    known = record.results["R"]["dice"]["mean"][2]
    assert record.final("dice") == pytest.approx([known[0] - 0.2, known[1]])


def test_scores_of_unknown_origin_of_other_cases_are_refused(write_run: WriteRun) -> None:
    path = write_run("fedbn", 0, LEVELS, unknown=[0.3, 0.6]).path
    table = path / "unknown-origin.csv"
    table.write_text(table.read_text().replace("BraTS2021_00002", "BraTS2021_00009"))
    with pytest.raises(ConfigError, match=r"unknown-origin\.csv has other cases of north than scores\.csv"):
        load_run(path)


@pytest.mark.parametrize("file", ["config.json", "results.json", "hospitals/west/scores.csv"])
def test_a_missing_or_damaged_file_is_said_to_be_so(write_run: WriteRun, file: str) -> None:
    path = write_run("fine-tune", 0, LEVELS).path
    text = (path / file).read_text()
    (path / file).write_text(text[: len(text) // 2])
    with pytest.raises(ConfigError, match="not the directory of a finished run"):
        load_run(path)
    (path / file).unlink()
    with pytest.raises(ConfigError, match="not the directory of a finished run"):
        load_run(path)


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"evaluate_every": 2}, True),
        ({"evaluate_sites": 1}, True),
        ({"evaluate_sites": 2}, False),
    ],
)
def test_a_run_that_was_scored_in_part_is_not_compared(
    write_run: WriteRun, changes: dict[str, int], refused: bool
) -> None:
    path = write_run("fine-tune", 0, LEVELS).path
    about = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**about, "scoring": {**about["scoring"], **changes}}))
    if not refused:
        load_run(path)
        return
    with pytest.raises(ConfigError, match=rf"{path}: this run was scored in part .*every site's scores after every"):
        load_run(path)

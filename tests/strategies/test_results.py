import json

import numpy as np
import pytest

from strategies.results import Results

SITES = ["north", "east", "west"]
R = np.array([[0.1, 0.2, 0.3], [0.9, 0.3, 0.4], [0.5, 0.8, 0.45], [0.4, 0.6, 0.7]])


def results(deployed: list[int]) -> Results:
    """Three sites whose Dice is `R` in every region and mask."""
    filled = Results("any", 0, SITES, deployed, {site: {"training": 4, "test": 1} for site in SITES})
    filled.stages = ["untrained", *SITES]
    for row in R:
        names = [f"{m}.{k}.{r}" for m in ("coarse", "refined") for k in ("dice", "hd95") for r in ("tc", "wt", "et")]
        filled.rows.append({site: dict.fromkeys(names, float(value)) for site, value in zip(SITES, row, strict=True)})
    return filled


def test_sites_that_share_a_student_have_the_streams_scores() -> None:
    values = results([3, 3, 3]).to_dict()
    assert values["deployed"] == [3, 3, 3]
    assert values["bwt"]["dice"]["wt"] == pytest.approx(np.mean([0.4 - 0.9, 0.6 - 0.8]))
    assert values["forgetting"]["dice"]["mean"] == pytest.approx(np.mean([0.9 - 0.4, 0.8 - 0.6]))


def test_sites_with_students_of_their_own_have_none_but_keep_the_matrix() -> None:
    values = results([1, 2, 3]).to_dict()
    assert values["deployed"] == [1, 2, 3]
    for name in ("bwt", "fwt", "forgetting", "forgetting_rate"):
        assert {value for by_key in values[name].values() for value in by_key.values()} == {None}
    assert np.allclose(values["R"]["dice"]["mean"], R)


def test_a_row_that_a_site_has_not_scored_yet_has_holes_and_the_stream_no_scores() -> None:
    whole = results([3, 3, 3])
    late = whole.rows[1].pop("west")
    values = whole.to_dict()
    for matrix in (values["R"]["dice"]["mean"], values["R_coarse"]["hd95"]["tc"]):
        assert matrix[1] == pytest.approx([0.9, 0.3, None])
        assert [matrix[k] for k in (0, 2, 3)] == pytest.approx(R[[0, 2, 3]])
    json.dumps(values, allow_nan=False)  # as the run directory writes it
    for name in ("bwt", "fwt", "forgetting", "forgetting_rate"):
        assert {value for by_key in values[name].values() for value in by_key.values()} == {None}
    assert ("west", 1) not in {(line["site"], line["stage"]) for line in whole.table()}

    whole.rows[1]["west"] = late
    assert whole.to_dict() == results([3, 3, 3]).to_dict()
    for name in ("bwt", "fwt", "forgetting", "forgetting_rate"):
        assert isinstance(whole.to_dict()[name]["dice"]["mean"], float)

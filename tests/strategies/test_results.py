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

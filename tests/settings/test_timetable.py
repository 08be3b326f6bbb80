"""Who is in the federation at each stage, by an experiment's [[stage]] tables."""

from pathlib import Path
from typing import Any

import pytest

from fedserdiff.errors import ConfigError
from fedserdiff.experiment_file import layers_of_file
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from strategies.stream import make_stream

NAMES = ["north", "west", "south"]
MOVES: list[dict[str, Any]] = [
    {"name": "March", "arrive": ["north", "west"]},
    {"name": "May", "arrive": ["south"], "leave": ["north"]},
    {"return": ["north"]},
]


def settings(stages: Any = (), **changes: Any) -> Settings:
    sites = tuple(Site(name, "brats2021", f"/scans/{name}") for name in NAMES)
    return make_settings("smoke", {"method": "fine-tune", **changes}, sites=sites, stages=stages)


@pytest.mark.parametrize(
    ("participation", "training"),
    [
        ("arriving", (("north", "west"), ("south",), ("north",))),
        ("cumulative", (("north", "west"), ("west", "south"), ("north", "west", "south"))),
    ],
)
def test_those_who_arrive_or_return_train_and_by_cumulative_participation_all_that_are_there(
    participation: str, training: tuple[tuple[str, ...], ...]
) -> None:
    table = settings(MOVES, **{"training.participation": participation}).timetable
    assert table.training == training
    assert table.away == ((), ("north",), ())
    assert table.names == ("March", "May", "north again")
    assert [table.arrival(site) for site in NAMES] == [1, 1, 2]
    assert table.before(3) == ("north", "west", "south")
    assert table.before(2) == ("west",)  # north leaves as stage 2 begins


def test_without_a_table_each_hospital_has_its_stage() -> None:
    table = settings().timetable
    assert table.training == (("north",), ("west",), ("south",))
    assert table.names == tuple(NAMES)


def test_a_site_that_left_for_good_keeps_the_last_student_that_it_was_given() -> None:
    left = settings(MOVES[:2])
    stream = make_stream(left)
    assert stream.deployed(NAMES) == [1, 2, 2]
    assert stream.arrivals(NAMES) == [1, 1, 2]
    assert make_stream(settings(MOVES)).deployed(NAMES) == [3, 3, 3]


def test_methods_without_a_stream_ignore_the_table() -> None:
    assert [stage.participants for stage in make_stream(settings(MOVES, method="local")).stages(NAMES)] == [
        ("north",),
        ("west",),
        ("south",),
    ]
    assert [stage.name for stage in make_stream(settings(MOVES, method="pooled")).stages(NAMES)] == ["pooled"]
    (together,) = make_stream(settings(MOVES, method="fedavg")).stages(NAMES)
    assert together.participants == tuple(NAMES)


def test_settings_with_a_table_survive_their_file_and_are_another_experiment() -> None:
    moved = settings(MOVES)
    assert Settings.from_dict(moved.to_dict()) == moved
    assert moved.fingerprint != settings().fingerprint
    assert settings(MOVES[:2]).fingerprint != moved.fingerprint


def test_a_file_has_a_table_for_each_stage(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text('[[stage]]\narrive = ["north"]\n[[stage]]\narrive = ["west"]\nleave = ["north"]\n')
    (first, second) = layers_of_file(file).settings().stages
    assert (first.arrive, second.arrive, second.leave) == (("north",), ("west",), ("north",))


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([{"arrive": NAMES[:2]}], "stages: south: never arrives; name it in the arrive of one stage"),
        ([{"arrive": NAMES}, {"arrive": ["north"]}], "stage 2: arrive: 'north' has arrived already"),
        ([{"arrive": [*NAMES, "east"]}], "stage 1: arrive: 'east' is not one of the hospitals: north, west, south"),
        ([{"arrive": NAMES, "leave": ["west"]}], "stage 1: leave: 'west' is not in the federation"),
        ([{"arrive": NAMES}, {"return": ["west"]}], "stage 2: return: 'west' has not left before"),
        ([{"arrive": NAMES}, {"leave": ["west"]}], "stage 2: no hospital trains in it"),
        ([{"arrive": ["west"]}, {"arrive": ["north", "south"]}], "'west' arrives before 'north'"),
        ([{"arrive": NAMES, "leaves": []}], "stage 1: leaves: unknown field: choose from name, arrive, leave, return"),
        ([{"arrive": "north"}], "stage 1: arrive: 'north' is not a list of hospitals' names"),
        ([{"arrive": ["north", "north", "west", "south"]}], "stage 1: arrive: 'north' is named twice"),
        (
            [{"name": "a", "arrive": ["north"]}, {"name": "a", "arrive": NAMES[1:]}],
            "name: 'a' is already the name of an earlier stage",
        ),
        (["north"], "stage 1: write it as a [[stage]] table"),
    ],
)
def test_a_table_that_cannot_be_says_where_it_is_wrong(stages: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(stages)
    assert said in str(caught.value)
    assert "is not stages" not in str(caught.value)

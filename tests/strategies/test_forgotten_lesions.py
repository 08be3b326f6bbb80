"""Hospitals' reports on earlier ones at the coordinator: rows, alarms and refusals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MessageType, RecordDict
from painted import moments
from traffic import answer, change, honest

from fedserdiff import wire
from fedserdiff.errors import FederationError
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings
from strategies.results import Results
from strategies.stage_runner import StageRunner
from strategies.stream import Stage

SITES = ("north", "east", "south", "west")
SENT = ArrayRecord({"weights": Array(np.linspace(-1, 1, 50, dtype=np.float32))})


class Heard(RunEvents):
    def __init__(self) -> None:
        self.forgotten: list[Mapping[str, Any]] = []

    def lesions_forgotten(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.forgotten.extend(rows)


def in_stage_3(method: str = "lesion-replay", shared: tuple[str, ...] = ("north", "east"), **changes: Any) -> Any:
    """A coordinator that trains south, of which `shared` handed over moments; east's are of no patient."""
    sites = tuple(Site(name, "brats2021", f"/scans/{name}") for name in SITES)
    begun = StageRunner(make_settings("smoke", {"training.rounds": 2, **changes}, method=method, sites=sites), Heard())
    for stage, site in enumerate(shared, 1):
        begun.begin_stage(stage, Stage(site, (site,)), {site: 10 + stage})
        record = ArrayRecord({n: Array(v.numpy()) for n, v in moments(0 if site == "east" else 10).items()})
        fisher = ArrayRecord({"weights": Array(np.ones(50, np.float32))})
        begun.stream.keep(site, RecordDict({wire.LESION_MOMENTS: record, wire.FISHER: fisher}))
        begun.stream.end_stage(SENT)
    begun.begin_stage(3, Stage("south", ("south",)), {"south": 13})
    begun.server_round = 2
    return begun


def reply(begun: StageRunner, figures: Mapping[str, Any]) -> Message:
    content = honest(MessageType.TRAIN, begun.config, SENT)
    content[wire.ARRAYS] = change(SENT, 0.01)
    content.metric_records[wire.METRICS].update(dict(figures))
    return answer(13, MessageType.TRAIN, content)


def kept(before: Any, after: Any, place: int = 1, region: str = "wt") -> dict[str, Any]:
    return {f"retained-{place}-{region}-before": before, f"retained-{place}-{region}-after": after}


@pytest.mark.parametrize(
    ("before", "after", "drop", "alarm"),
    [
        (80, 70, 0.1, False),
        (80, 69, 0.1, True),
        (57, 50, 0.07, False),  # 100 · 0.07 is more than 7 in floating point
        (57, 49, 0.07, True),
        (60, 90, 0.1, False),
        (100, 0, 1.0, False),
    ],
)
def test_a_fall_of_more_than_the_setting_is_an_alarm(before: int, after: int, drop: float, alarm: bool) -> None:
    begun = in_stage_3(**{"method.alarm_drop": drop})
    _, losses, _ = begun.aggregate(SENT, [reply(begun, kept(before, after))])
    row = {"stage": 3, "at": "south", "site": "north", "region": "wt"}
    row |= {"before": before / 100, "after": after / 100, "alarm": alarm}
    assert begun.retention == [row]
    assert begun.events.forgotten == ([row] if alarm else [])
    assert set(losses) == {"segmentation", "distillation"}, "figures are no losses"


def test_regions_are_rows_of_their_own_and_one_without_both_figures_has_none() -> None:
    begun = in_stage_3()
    half = {"retained-1-wt-before": 90}
    begun.aggregate(SENT, [reply(begun, {**kept(80, 81, region="tc"), **kept(70, 20, region="et"), **half})])
    assert [(row["region"], row["after"], row["alarm"]) for row in begun.retention] == [
        ("tc", 0.81, False),
        ("et", 0.2, True),
    ]
    assert begun.events.forgotten == begun.retention


def test_a_place_is_a_site_in_order_of_first_sharing() -> None:
    begun = in_stage_3(shared=("west", "east", "north"))
    begun.aggregate(SENT, [reply(begun, {**kept(50, 50), **kept(70, 60, 3)})])
    assert [(row["site"], row["after"]) for row in begun.retention] == [("west", 0.5), ("north", 0.6)]


@pytest.mark.parametrize(
    ("figures", "why"),
    [
        (kept(101, 50), "metrics: retained-1-wt-before: out of range"),
        (kept(50, -1), "metrics: retained-1-wt-after: out of range"),
        (kept(0.5, 0.4), "metrics: retained-1-wt-before: is not a multiple of 1"),
        (kept(50, 50, region="pz"), "metrics: names differ from those agreed"),
        ({**kept(50, 50), **kept(50, 50, 2)}, "metrics: names differ from those agreed"),
        ({**kept(50, 50), **kept(50, 50, 3)}, "metrics: names differ from those agreed"),
    ],
    ids=["above", "below", "unrounded", "of another region", "of who shared nothing", "of who is not there"],
)
def test_a_reply_whose_figures_were_not_agreed_is_refused(figures: dict[str, Any], why: str) -> None:
    begun = in_stage_3()
    with pytest.raises(FederationError, match=f"no student came back: south sent what was not agreed.*{why}"):
        begun.aggregate(SENT, [reply(begun, figures)])


@pytest.mark.parametrize(
    ("server_round", "shared", "changes"),
    [
        (1, ("north",), {}),
        (2, (), {}),
        (2, ("east",), {}),
        (2, ("north",), {"method.alarm_drop": 0.0}),
        (2, ("north",), {"method.teacher": "first"}),
    ],
    ids=["not the last round", "stage 1", "moments of no patient", "no alarm", "stage 1's teacher"],
)
def test_else_no_figure_is_taken(server_round: int, shared: tuple[str, ...], changes: dict[str, Any]) -> None:
    begun = in_stage_3(shared=shared, **changes)
    begun.server_round = server_round
    begun.aggregate(SENT, [reply(begun, {})])
    assert begun.retention == []
    with pytest.raises(FederationError, match="names differ from those agreed"):
        begun.aggregate(SENT, [reply(begun, kept(50, 50))])


def test_among_several_methods_the_one_that_watches_does() -> None:
    begun = in_stage_3("lesion-replay+ewc")
    begun.aggregate(SENT, [reply(begun, kept(80, 20))])
    assert [row["site"] for row in begun.events.forgotten] == ["north"]


def test_results_hold_the_table() -> None:
    results = Results("lesion-replay", 0, SITES, [3] * 4, {})
    row = {"stage": 2, "at": "east", "site": "north", "region": "et", "before": 0.8, "after": 0.5, "alarm": True}
    results.retention.append(row)
    assert results.to_dict()["retention"] == [row]


@pytest.mark.parametrize("method", ["lesion-replay", "lesion-replay+ewc"])
def test_moments_of_no_patient_are_told(method: str) -> None:
    stream = in_stage_3(method).stream
    told = (
        "south shares no moments of its lesions, so later hospitals cannot paint them: fewer than "
        "method.least_patients = 5 of its training patients have a lesion"
    )
    for patients, said in ((0, told), (10, "")):
        record = ArrayRecord({name: Array(values.numpy()) for name, values in moments(patients).items()})
        assert stream.note_on("south", RecordDict({wire.LESION_MOMENTS: record})) == said

"""Rows of R measured on Flower's own state: which site is asked to score which student, and when."""

import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from superlink import Answer, SuperLink, SuperNode
from traffic import SECRET, honest

from fedserdiff import wire
from fedserdiff.errors import FederationError
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import Fault
from strategies.evaluation_plan import EvaluationPlan
from strategies.results import Results, Scores
from strategies.retrying_grid import RetryingGrid
from strategies.scoring import Scoring
from strategies.stage_runner import StageRunner

SITES = ("north", "east", "west")
CONFIG = make_settings(
    "smoke",
    {"machine.stage_timeout_s": 20},
    method="fine-tune",
    sites=tuple(Site(name, "brats2021", f"/scans/{name}") for name in SITES),
)


class Heard(RunEvents):
    def __init__(self) -> None:
        self.asked: list[tuple[int, list[str]]] = []
        self.evaluated: list[tuple[int, list[str]]] = []

    def evaluation_started(self, stage: int, sites: object) -> None:
        assert isinstance(sites, list)
        self.asked.append((stage, sites))

    def stage_evaluated(self, stage: int, scores: Scores) -> None:
        self.evaluated.append((stage, list(scores)))


def student(row: int) -> ArrayRecord:
    return ArrayRecord({"weights": Array(np.full(10, row, np.float32))})


def worth(place: int, row: int) -> float:
    """A site's Dice of a row's student: no two are alike."""
    return round(0.1 * row + 0.01 * place, 2)


def scorer(place: int) -> Answer:
    """A site that scores the student that it is sent; it knows the row by the student alone."""

    def answer(node: SuperNode, message: Message) -> RecordDict:
        sent = message.content.array_records[wire.ARRAYS]
        content = honest(MessageType.EVALUATE, CONFIG, sent)
        for name in content.metric_records[wire.METRICS]:
            if "dice" in name:
                content.metric_records[wire.METRICS][name] = worth(place, int(sent["weights"].numpy()[0]))
        return content

    return answer


class Scored:
    """A stream of three sites whose rows are being measured."""

    def __init__(self, link: SuperLink, config: Settings = CONFIG) -> None:
        self.link = link
        self.heard = Heard()
        self.runner = StageRunner(config, self.heard)
        self.results = Results("fine-tune", 0, SITES, [3, 3, 3], {})
        self.scoring = Scoring(RetryingGrid(link.grid), self.runner, self.results)
        self.nodes: dict[str, SuperNode] = {}

    def join(self, site: str, answer: Answer | None = None) -> SuperNode:
        node = self.link.node(answer or scorer(SITES.index(site))).start()
        self.nodes[site] = node
        return node

    def add(self) -> None:
        self.scoring.add(student(len(self.results.rows)))

    def catch_up(self) -> None:
        self.scoring.catch_up({site: node.id for site, node in self.nodes.items()})

    def dice(self) -> list[dict[str, float]]:
        return [{site: scores["refined.dice.wt"] for site, scores in row.items()} for row in self.results.rows]

    def asked(self, site: str) -> list[object]:
        """The numbers of the rows whose student a site was sent."""
        return [message.content.config_records[wire.CONFIG]["stage"] for message in self.nodes[site].seen]


@pytest.fixture
def stream(link: SuperLink) -> Scored:
    return Scored(link)


def test_a_site_that_comes_late_scores_every_student_that_it_missed_and_no_other_does_again(stream: Scored) -> None:
    stream.join("north")
    for _ in range(2):
        stream.add()
        stream.catch_up()
    assert stream.dice() == [{"north": worth(0, 0)}, {"north": worth(0, 1)}]
    stream.join("east")
    stream.add()
    stream.catch_up()
    assert stream.asked("north") == stream.asked("east") == [0, 1, 2]
    stream.join("west")
    stream.catch_up()
    assert stream.asked("west") == [0, 1, 2]
    assert stream.asked("north") == stream.asked("east") == [0, 1, 2]
    assert stream.dice() == [{site: worth(place, row) for place, site in enumerate(SITES)} for row in range(3)]
    assert stream.heard.asked == stream.heard.evaluated
    assert stream.heard.asked[-3:] == [(0, ["west"]), (1, ["west"]), (2, ["west"])]


def test_rows_that_are_whole_are_not_measured_again_and_their_students_are_let_go(stream: Scored) -> None:
    stream.join("north")
    stream.join("east")
    stream.add()
    stream.catch_up()
    assert stream.scoring.students == {0: student(0)}, "west has not scored it yet"
    stream.join("west")
    stream.catch_up()
    assert stream.scoring.students == {}
    before = [stream.asked(site) for site in SITES], dict(stream.results.seconds)
    stream.catch_up()
    assert ([stream.asked(site) for site in SITES], stream.results.seconds) == before


def test_the_bytes_and_the_seconds_of_late_scores_are_counted_too(stream: Scored) -> None:
    def slow(place: int) -> Answer:
        def answer(node: SuperNode, message: Message) -> RecordDict | Error | None:
            time.sleep(0.5)
            return scorer(place)(node, message)

        return answer

    stream.join("north", slow(0))
    stream.add()
    stream.catch_up()
    sent = dict(stream.runner.outbox.bytes_in["north"])
    first = stream.results.seconds["evaluation 0"]
    assert first > 0.5
    stream.join("east", slow(1))
    stream.catch_up()
    assert stream.results.seconds["evaluation 0"] > first + 0.5
    assert stream.runner.outbox.bytes_in["east"] == sent
    assert stream.runner.inbox.bytes_out["east"] == stream.runner.inbox.bytes_out["north"]
    assert sent[wire.ARRAYS] > 40


def spoilt(node: SuperNode, message: Message) -> RecordDict:
    content = scorer(1)(node, message)
    assert isinstance(content, RecordDict)
    content.metric_records[wire.METRICS]["refined.dice.wt"] = 1.5
    return content


FAILING: dict[str, tuple[Answer, str]] = {
    "a fault": (
        lambda node, message: Error(int(Fault.MEMORY), SECRET),
        r"east answered MEMORY \(code 212\), its own log says why",
    ),
    "a score out of range": (
        spoilt,
        r"east sent what was not agreed, dropped \(metrics: refined.dice.wt: out of range\)",
    ),
    "no scores": (lambda node, message: RecordDict({wire.METRICS: MetricRecord()}), "east sent what was not agreed"),
    "text": (lambda node, message: RecordDict({SECRET: ConfigRecord({"a": SECRET})}), "east sent what was not agreed"),
}


@pytest.mark.parametrize(("answer", "why"), FAILING.values(), ids=FAILING)
def test_a_site_that_fails_ends_the_run_by_name_and_leaves_no_score(stream: Scored, answer: Answer, why: str) -> None:
    stream.join("north")
    stream.add()
    stream.catch_up()
    stream.join("east", answer)
    stream.add()
    with pytest.raises(FederationError, match=f"^evaluation after stage 0: {why}") as caught:
        stream.catch_up()
    assert SECRET not in str(caught.value)
    assert "north" not in str(caught.value)
    assert stream.dice()[0] == {"north": worth(0, 0)}


def test_a_site_that_does_not_answer_in_time_ends_the_run_by_name(link: SuperLink) -> None:
    stream = Scored(link, CONFIG.replace({"machine.stage_timeout_s": 1}))
    stream.join("north")
    stream.join("east", lambda node, message: None)
    stream.add()
    with pytest.raises(FederationError, match=r"^evaluation after stage 0: east did not answer in time$"):
        stream.catch_up()


def test_a_site_that_is_started_anew_while_it_scores_is_asked_again(stream: Scored) -> None:
    def interrupted(node: SuperNode, message: Message) -> RecordDict | Error | None:
        if len(node.seen) > 1:
            return scorer(0)(node, message)
        node.start_anew(0.3)
        return None

    stream.join("north", interrupted)
    stream.add()
    stream.catch_up()
    assert stream.dice() == [{"north": worth(0, 0)}]
    assert stream.asked("north") == [0, 0]


def test_only_those_are_asked_who_are_to_score_a_row_whenever_they_come(stream: Scored) -> None:
    rows = (("north", "west"), ("north", "east"), ("east",), ("north", "west"))
    stream.results.evaluation = EvaluationPlan(3, ("north", "west"), (0, 3), rows)
    stream.join("north")
    stream.join("east")
    for _ in range(3):
        stream.add()
        stream.catch_up()
    assert list(stream.scoring.students) == [0], "west has not scored it yet"
    with pytest.raises(FederationError, match=r"^R is incomplete because sites failed to score: west after stage 0$"):
        stream.scoring.see_that_all_is_scored()
    stream.join("west")
    stream.catch_up()
    stream.add()
    stream.catch_up()
    assert (stream.asked("north"), stream.asked("east"), stream.asked("west")) == ([0, 1, 3], [1, 2], [0, 3])
    assert stream.dice() == [
        {site: worth(SITES.index(site), row) for site in wanted} for row, wanted in enumerate(rows)
    ]
    assert stream.scoring.students == {}
    stream.scoring.see_that_all_is_scored()

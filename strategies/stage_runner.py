"""A stage's rounds over Flower's grid, from three independent parts.

The stream decides who trains and what else is sent, the inbox checks what comes back, the aggregation combines it.
"""

from collections.abc import Iterable, Mapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType
from flwr.serverapp import Grid

from fedserdiff import wire
from fedserdiff.errors import FederationError
from fedserdiff.methods import get_method
from fedserdiff.report.events import RunEvents
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from strategies.aggregation import Aggregator
from strategies.faults import in_words
from strategies.inbox import Inbox
from strategies.outbox import Outbox
from strategies.retention import Retention, retention_of
from strategies.stream import Stage, make_stream

Absences = list[dict[str, str | int]]
"""Sites that a stage continued without: stage, round, site, and reason."""


class StageRunner:
    """Runs rounds, and raises an error if a site that has to train returns no student.

    Parameters
    ----------
    config : Settings
        Settings of the experiment.
    events : RunEvents
        Listener for rounds and losses.

    Attributes
    ----------
    stream : ArrivalStream
        The coordinator's half of the method: stages, and what is sent with the student.
    inbox, outbox : Inbox, Outbox
        Messages from and to sites, with their bytes.
    aggregator : Aggregator
        Aggregation of a round's students.
    server_round : int
        The current round, from 1.
    retention : list of Retention
        What the last round's replies reported on earlier hospitals.
    notes : list of str
        What the user should know about what sites handed over in the last consolidation.
    """

    def __init__(self, config: Settings, events: RunEvents) -> None:
        self.config = config
        self.events = events
        self.stream = make_stream(config)
        self.inbox = Inbox(config)
        self.outbox = Outbox(config)
        self.aggregator = Aggregator(config)
        self.server_round = 0
        self.retention: list[Retention] = []
        self.notes: list[str] = []
        self._nodes: dict[int, str] = {}
        self._asked: dict[int, str] = {}  # participants of a round

    def begin_stage(self, stage: int, plan: Stage, nodes: Mapping[str, int]) -> None:
        """Set the stage's number (from 1), its plan and the node of each participant, in order of arrival."""
        self._nodes = self._asked = {node: site for site, node in nodes.items()}
        self.stream.begin_stage(stage, plan)

    def run_round(
        self, grid: Grid, arrays: ArrayRecord, server_round: int
    ) -> tuple[ArrayRecord, dict[str, float], Absences]:
        """Do one round of the stage (from 1); return its student, its mean losses, and the absent sites.

        Raises
        ------
        FederationError
            As in `aggregate`.
        """
        self.server_round = server_round
        self.events.round_started(server_round, self.config.rounds)
        replies = grid.send_and_receive(self.train_messages(arrays), timeout=self.config.machine.stage_timeout_s)
        return self.aggregate(arrays, replies)

    def train_messages(self, arrays: ArrayRecord) -> list[Message]:
        """Create the messages to the participants of this round, in order of arrival."""
        stream, messages = self.stream, []
        self._asked = self._drawn()
        for node, site in self._asked.items():
            order = ConfigRecord(
                {
                    "stage": stream.stage,
                    "server-round": self.server_round,
                    "length": stream.plan.length,
                    "teacher-stage": stream.teacher_stages(),
                }
            )
            records: dict[str, ArrayRecord | ConfigRecord] = {
                wire.ARRAYS: arrays,
                wire.CONFIG: order,
                **stream.records_for(site, self.server_round),
            }
            messages.append(self.outbox.message_to(site, node, MessageType.TRAIN, records))
        return messages

    def aggregate(
        self, sent: ArrayRecord, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, dict[str, float], Absences]:
        """Aggregate the replies to a round in which the student `sent` was sent; return what `run_round` returns.

        Raises
        ------
        FederationError
            If no participant returned a valid student or, unless the config's `site_failure` is ``go-on``, if one did
            not. The stage has then failed.
        """
        order = {node: place for place, node in enumerate(self._asked)}
        # so that sums do not depend on the order of arrival
        answers = sorted(replies, key=lambda m: order[m.metadata.src_node_id])
        watched = self.stream.watched(self.server_round)
        accepted, failed = self.inbox.accept(answers, MessageType.TRAIN, sent, self._asked, watched=watched)
        for site, content in accepted.items():
            self.stream.on_fit_reply(site, content)
        where = f"stage {self.stream.stage} ({self.stream.plan.name}), round {self.server_round}"
        if not accepted:
            raise FederationError(f"{where}: no student came back: {in_words(failed)}")
        absences = self._go_on_without(failed, where)
        self.retention = retention_of(self.stream.stage, watched, accepted, self.config)
        kept = [message for message in answers if self._asked[message.metadata.src_node_id] in accepted]
        for message in kept:
            message.content = accepted[self._asked[message.metadata.src_node_id]]
        arrays, losses = self.aggregator.aggregate(self.server_round, sent, kept)
        self.events.round_finished(losses)
        if any(row["alarm"] for row in self.retention):
            self.events.lesions_forgotten(self.retention)
        return arrays, losses, absences

    def consolidate(self, grid: Grid, arrays: ArrayRecord) -> Absences:
        """Ask the stage's participants for the records that the method keeps, if any; return the absent sites.

        Raises
        ------
        FederationError
            If no participant, or not every required one, handed over what was agreed.
        """
        stream, asked = self.stream, self.stream.asks_for()
        self.notes = []
        if not asked:
            return []
        self.events.consolidation_started(stream.stage, list(self._nodes.values()))
        order = ConfigRecord({"stage": stream.stage})
        if asked != get_method(self.config.method.name).hands_over_all:
            order["records"] = list(asked)
        records: dict[str, ArrayRecord | ConfigRecord] = {wire.ARRAYS: arrays, wire.CONFIG: order}
        messages = [self.outbox.message_to(site, node, wire.CONSOLIDATE, records) for node, site in self._nodes.items()]
        replies = list(grid.send_and_receive(messages, timeout=self.config.machine.stage_timeout_s))
        answers, failed = self.inbox.accept(replies, wire.CONSOLIDATE, arrays, self._nodes, asked)
        where = f"stage {stream.stage} ({stream.plan.name}), consolidation"
        if not answers:
            raise FederationError(f"{where}: {in_words(failed)}")
        absences = self._go_on_without(failed, where)
        for site in self._nodes.values():
            if site in answers:
                stream.keep(site, answers[site])
                if note := stream.note_on(site, answers[site]):
                    self.notes.append(note)
                    self.events.noted(note)
        return absences

    def _drawn(self) -> dict[int, str]:
        """Return the participants of this round: all, or as many as the config says, drawn again each round."""
        count = drawn_count(self.config, len(self._nodes))
        draws = generator(self.config.seed, "participants", self.stream.stage, self.server_round)
        drawn = sorted(torch.randperm(len(self._nodes), generator=draws)[:count].tolist())
        nodes = list(self._nodes.items())
        return dict(nodes[place] for place in drawn)

    def _go_on_without(self, failed: Mapping[str, str], where: str) -> Absences:
        """Continue without failed sites and report them, if the config allows it; return them."""
        if not failed:
            return []
        if self.config.machine.site_failure == "fail":
            raise FederationError(f"{where}: {in_words(failed)}")
        self.events.sites_failed(in_words(failed))
        return [
            {"stage": self.stream.stage, "round": self.server_round, "site": site, "why": why}
            for site, why in failed.items()
        ]


def drawn_count(config: Settings, participants: int) -> int:
    """Return the number of a stage's participants that train in a round."""
    return max(1, round(config.aggregation.fraction_train * participants))

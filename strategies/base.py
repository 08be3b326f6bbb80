"""Federated averaging over a stream of arriving hospitals: what every method's coordinator half shares."""

import pkgutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedserdiff import wire
from fedserdiff.errors import FederationError, ReplyError
from fedserdiff.methods import get_method
from fedserdiff.reply_schema import admit, check_update, reply_rules
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Settings
from strategies.faults import faults_of, in_words


@dataclass(frozen=True)
class Stage:
    """One stage of the stream: its `name`, and the sites that train in it.

    `length` says how many times as long as the config has it the stage is: 1, but for a method that does the whole
    stream's work at once.
    """

    name: str
    participants: tuple[str, ...]
    length: int = 1


class ArrivalStrategy(FedAvg):
    """FedAvg whose stages target named sites, and which fails loudly where FedAvg would pass the old model on.

    A method subclasses it and overrides what it needs of the hooks below.

    Parameters
    ----------
    config : Settings
        The experiment.
    events : RunEvents
        Told of rounds and losses.
    """

    def __init__(self, config: Settings, events: RunEvents) -> None:
        super().__init__(min_train_nodes=1, min_evaluate_nodes=0, min_available_nodes=1, weighted_by_key=wire.WEIGHT)
        self.config = config
        self.events = events
        self.stage = 0
        self.teacher: ArrayRecord | None = None
        self.teacher_stage = 0
        self.bytes_out: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.bytes_in: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.plan = Stage("", ())
        self.server_round = 0
        self.standing = ArrayRecord()
        self.left_out: Callable[[str], Mapping[str, ArrayRecord]] = lambda site: {}
        """By site, the record that tells it which of its scans an earlier site brought; none where there are none."""
        self._absences: list[dict[str, str | int]] = []
        self._nodes: dict[int, str] = {}

    # What a method may override

    def stages(self, sites: Sequence[str]) -> list[Stage]:
        """Return the stream's stages: one a site, in order of arrival."""
        arriving = self.config.training.participation == "arriving"
        return [Stage(site, (site,) if arriving else tuple(sites[: k + 1])) for k, site in enumerate(sites)]

    def deployed(self, sites: Sequence[str]) -> list[int]:
        """Return, for each site, the stage whose student it uses when the stream has ended: the last."""
        return [len(self.stages(sites))] * len(sites)

    def initial(self, untrained: ArrayRecord, standing: ArrayRecord) -> ArrayRecord:
        """Return the student that a stage starts from: the one that the last stage ended with."""
        return standing

    def begin_stage(self, stage: int, plan: Stage, nodes: Mapping[str, int]) -> None:
        """Take the stage's number (from 1), its plan and the node of each participant."""
        self.stage = stage
        self.plan = plan
        self._nodes = {node: site for site, node in nodes.items()}

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return what a participant gets beside the student: nothing."""
        return {}

    def receive(self, site: str, content: RecordDict) -> None:
        """Take note of a student that came back from a round."""

    def consolidates(self) -> bool:
        """Say whether the stage's participants are asked, when it has ended, for what the method keeps of it."""
        return False

    def keep(self, site: str, content: RecordDict) -> None:
        """Keep what a participant handed over of the stage."""

    def end_stage(self, arrays: ArrayRecord) -> None:
        """Take the stage's final student."""

    def kept(self) -> dict[str, Any]:
        """Return what the method keeps between stages besides the teacher, as `torch.save` can write it: nothing."""
        return {}

    def take_back(self, kept: dict[str, Any]) -> None:
        """Go on with what `kept` returned in a process that has ended."""

    # Flower's side

    def run_round(
        self, grid: Grid, arrays: ArrayRecord, server_round: int
    ) -> tuple[ArrayRecord, dict[str, float], list[dict[str, str | int]]]:
        """Do one round of the stage, from 1; return its student, its mean losses, and who was absent.

        A round is one start of Flower's loop, which counts from 1 and keeps no state between rounds: so a run can go on
        after any of them.

        Raises
        ------
        FederationError
            As `aggregate_train`.
        """
        self.server_round, self._absences = server_round, []
        result = self.start(grid, arrays, num_rounds=1, timeout=self.config.machine.stage_timeout_s)
        losses = {
            name.removeprefix("loss-"): float(str(value))
            for name, value in result.train_metrics_clientapp[1].items()
            if name.startswith("loss-")
        }
        return result.arrays, losses, self._absences

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address the stage's participants, in order of arrival; Flower's number of the round is always 1."""
        self.events.round_started(self.server_round, self.config.training.rounds)
        self.standing = arrays
        messages = []
        for node_id, site in self._nodes.items():
            order = ConfigRecord(
                {
                    "stage": self.stage,
                    "server-round": self.server_round,
                    "length": self.plan.length,
                    "teacher-stage": self.teacher_stage,
                }
            )
            records: dict[str, ArrayRecord | ConfigRecord] = {
                wire.ARRAYS: arrays,
                wire.CONFIG: order,
                **self.records_for(site, self.server_round),
            }
            messages.append(self.message_to(site, node_id, MessageType.TRAIN, records))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the students, weighted by cases, and report the losses.

        Raises
        ------
        FederationError
            Where no participant returned a student that was agreed on, or, unless the config's `site_failure` is to go
            on, where one did not: the stage has failed.
        """
        order = {node: place for place, node in enumerate(self._nodes)}
        answers = sorted(replies, key=lambda m: order[m.metadata.src_node_id])  # sums do not depend on who was first
        accepted, failed = self.accept(answers, MessageType.TRAIN, self.standing, self._nodes)
        for site, content in accepted.items():
            self.receive(site, content)
        kept = [message for message in answers if self._nodes[message.metadata.src_node_id] in accepted]
        for message in kept:
            message.content = accepted[self._nodes[message.metadata.src_node_id]]
        _keep_common_losses(kept)
        arrays, metrics = super().aggregate_train(server_round, kept)
        where = f"stage {self.stage} ({self.plan.name}), round {self.server_round}"
        if arrays is None or metrics is None:
            raise FederationError(f"{where}: no student came back: {in_words(failed)}")
        self._absences = self._go_on_without(failed, where)
        losses = {k.removeprefix("loss-"): float(v) for k, v in metrics.items() if not isinstance(v, list)}
        self.events.round_finished(losses)
        return self._with_inertia(arrays), metrics

    def consolidate(self, grid: Grid, arrays: ArrayRecord) -> list[dict[str, str | int]]:
        """Ask the stage's participants for what the method keeps of it, if anything; return who was absent.

        Raises
        ------
        FederationError
            Where no participant, or not every one that has to, handed over what was agreed.
        """
        if not self.consolidates():
            return []
        self.events.consolidation_started(self.stage, list(self._nodes.values()))
        self.standing = arrays
        records: dict[str, ArrayRecord | ConfigRecord] = {
            wire.ARRAYS: arrays,
            wire.CONFIG: ConfigRecord({"stage": self.stage}),
        }
        messages = [self.message_to(site, node, wire.CONSOLIDATE, records) for node, site in self._nodes.items()]
        replies = list(grid.send_and_receive(messages, timeout=self.config.machine.stage_timeout_s))
        answers, failed = self.accept(replies, wire.CONSOLIDATE, arrays, self._nodes)
        where = f"stage {self.stage} ({self.plan.name}), consolidation"
        if not answers:
            raise FederationError(f"{where}: {in_words(failed)}")
        absences = self._go_on_without(failed, where)
        for site in self._nodes.values():
            if site in answers:
                self.keep(site, answers[site])
        return absences

    def message_to(
        self, site: str, node: int, message_type: str, records: Mapping[str, ArrayRecord | ConfigRecord]
    ) -> Message:
        """Address a site, and count the bytes; what it is to leave out goes with every message."""
        content = RecordDict({**records, **self.left_out(site)})
        self.count(self.bytes_in, site, content)
        return Message(content, node, message_type, ttl=self.config.machine.stage_timeout_s)

    def _go_on_without(self, failed: Mapping[str, str], where: str) -> list[dict[str, str | int]]:
        """Go on without sites that failed, saying so, where the config allows it; return them."""
        if not failed:
            return []
        if self.config.machine.site_failure == "fail":
            raise FederationError(f"{where}: {in_words(failed)}")
        self.events.sites_failed(in_words(failed))
        return [
            {"stage": self.stage, "round": self.server_round, "site": site, "why": why} for site, why in failed.items()
        ]

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluate nothing within a stage: rows of R are measured between stages."""
        return []

    def summary(self) -> None:
        """Say nothing: the run's events tell what FedAvg's summary would (and its sampling is not used)."""

    def accept(
        self, replies: Iterable[Message], message_type: str, sent: ArrayRecord, nodes: Mapping[int, str]
    ) -> tuple[dict[str, RecordDict], dict[str, str]]:
        """Return, by site, the contents of the replies that hold what was agreed, and what was wrong elsewhere.

        A student of theirs is whole: the change that came is added to what was `sent`.

        The bytes of every reply that came are counted; what a site called a record that was not agreed may hold
        anything, so all such are ``other``.
        """
        replies = list(replies)
        places = {site.name: place for place, site in enumerate(self.config.sites)}
        accepted, dropped = {}, {}
        for message in replies:
            if message.has_error():
                continue
            site = nodes[message.metadata.src_node_id]
            rules = reply_rules(message_type, self.config, places[site], sent)
            for kind, size in wire.bytes_by_kind(message.content).items():
                self.bytes_out[site][kind if kind in rules else "other"] += size
            try:
                content = admit(message.content, rules)
                check_update(content, self.config)
            except ReplyError as error:
                dropped[site] = f"sent what was not agreed, dropped ({error})"
            else:
                if wire.ARRAYS in content:  # from here on a trained student is what it was for FedAvg: whole weights
                    content[wire.ARRAYS] = wire.changed(sent, content.array_records[wire.ARRAYS])
                accepted[site] = content
        return accepted, faults_of(replies, nodes, self.config) | dropped

    def count(self, ledger: dict[str, dict[str, int]], site: str, content: RecordDict) -> None:
        """Add a message's payload bytes to a ledger, by site and kind of record."""
        for kind, size in wire.bytes_by_kind(content).items():
            ledger[site][kind] += size

    def _with_inertia(self, arrays: ArrayRecord) -> ArrayRecord:
        """Keep the share β of the standing student (our choice; 0 by default: FedAvg)."""
        beta = self.config.training.inertia
        if beta == 0:
            return arrays
        return ArrayRecord(
            {
                name: Array(beta * self.standing[name].numpy() + (1 - beta) * array.numpy())
                for name, array in arrays.items()
            }
        )


def make_strategy(config: Settings, events: RunEvents) -> ArrivalStrategy:
    """Return the coordinator's half of the config's method."""
    strategy: ArrivalStrategy = pkgutil.resolve_name(get_method(config.method.name).strategy)(config, events)
    return strategy


def _keep_common_losses(replies: Sequence[Message]) -> None:
    """Leave out losses that not every participant tells: Flower averages replies of the same metrics alone."""
    metrics = [message.content.metric_records[wire.METRICS] for message in replies]
    for one in metrics:
        for name in [name for name in one if any(name not in other for other in metrics)]:
            del one[name]

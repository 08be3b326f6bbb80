"""Which node is which hospital: by its authenticated key, where hospitals have one, and by what it says of itself."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from fedserdiff import wire
from fedserdiff.errors import FederationError, ReplyError
from fedserdiff.reply_schema import admit, reply_rules
from fedserdiff.report.events import RunEvents
from fedserdiff.settings.experiment import Settings
from strategies.faults import describe_fault, may_pass
from strategies.overlap import SharedScans

_POLL_S = 0.2
_INTRODUCTION_S = 30


@dataclass(frozen=True)
class _Asked:
    """A question that is out: its message, the site whose key the node has, when the node was last activated."""

    message: str
    owner: str | None
    activated: str | None


class Roster:
    """The sites that have introduced themselves, by name.

    Parameters
    ----------
    grid, config, events
        As `run_stream`'s.
    keys : mapping, optional
        By site, the public key that its node has to have authenticated with, as Flower's SuperLink stores it. Nodes
        with other keys are not addressed at all. None, in a simulation, takes every node for what it says it is.
    introduced : callable
        Told a site's name and the content of its introduction.
    scans : SharedScans, optional
        Asks sites for the hashes of their scans, and takes them in; one of the roster's own unless given.
    """

    def __init__(
        self,
        grid: Grid,
        config: Settings,
        events: RunEvents,
        keys: Mapping[str, bytes] | None = None,
        introduced: Callable[[str, RecordDict], None] = lambda site, content: None,
        scans: SharedScans | None = None,
    ) -> None:
        self._grid = grid
        self._config = config
        self._events = events
        self._tell = introduced
        self._owners = None if keys is None else {key: site for site, key in keys.items()}
        self._asked: dict[int, _Asked] = {}
        self._turned_away: dict[int, str | None] = {}  # when the node had last been activated
        self._why: dict[str, str] = {}
        self._faults: Counter[int] = Counter()
        self._sites = [site.name for site in config.sites]
        self.scans = SharedScans(config) if scans is None else scans
        self.nodes: dict[str, int] = {}
        self.cases: dict[str, dict[str, int]] = {}

    def wait_for(self, sites: Sequence[str]) -> dict[str, int]:
        """Return the node of each of `sites`, asking every node that is new, until all of them are there.

        Raises
        ------
        FederationError
            Where a site has not appeared within the config's `site_timeout_s`, and, without keys, where two nodes claim
            one site or a node answers with a fault.
        """
        timeout = self._config.machine.site_timeout_s
        end = time.monotonic() + timeout
        told: list[str] = []
        while True:
            there = self.meet()
            missing = [site for site in sites if site not in there]
            if not missing:
                return {site: there[site] for site in sites}
            if missing != told:
                self._events.waiting(missing, timeout)
                told = missing
            if time.monotonic() > end:
                why = "; ".join(f"{site} {self._why[site]}" for site in missing if site in self._why)
                raise FederationError(
                    f"waited {timeout:.0f} s for {', '.join(missing)}: no such site appeared"
                    + (f" ({why})" if why else "")
                )
            time.sleep(_POLL_S)

    def name(self, node: int) -> str:
        """Return the name of the site that a node is, or the node's number."""
        return next((site for site, known in self.nodes.items() if known == node), f"node {node}")

    def meet(self) -> dict[str, int]:
        """Let nodes that are new introduce themselves; return the node of every site that is there now.

        A hospital prepares its cases before it answers, perhaps for hours: it is waited for half a minute here, and its
        answer is taken in at a later call.
        """
        end = time.monotonic() + _INTRODUCTION_S
        while True:
            nodes = {node.node_id: node for node in self._grid.get_nodes()}
            for node in nodes.values():
                self._ask(node)
            to_ask_again = self._listen()
            awaited = [node for node in self._asked if node in nodes]
            if not (awaited or to_ask_again) or time.monotonic() > end:
                return {site: node for site, node in self.nodes.items() if node in nodes}
            time.sleep(_POLL_S)

    def _ask(self, node: NodeInfo) -> None:
        """Ask a node who it is, unless that is known, or was asked since the node was last activated."""
        activated = node.last_activated_at
        asked = self._asked.get(node.node_id)
        turned_away = self._turned_away.get(node.node_id, "never") == activated
        if node.node_id in self.nodes.values() or turned_away or (asked and asked.activated == activated):
            return
        owner = None if self._owners is None else self._owners.get(bytes(node.public_key))
        if self._owners is not None and owner is None:
            self._turn_away(node.node_id, activated, f"node {node.node_id}", "its key belongs to no site")
            return
        question = ConfigRecord({"experiment": self._config.fingerprint, **self.scans.question()})
        content = RecordDict({wire.CONFIG: question})
        message = Message(content, node.node_id, MessageType.QUERY, ttl=self._config.machine.stage_timeout_s)
        (identifier,) = self._grid.push_messages([message])
        self._asked[node.node_id] = _Asked(identifier, owner, activated)

    def _listen(self) -> bool:
        """Take in the introductions that have come; return whether a node failed for a reason that may pass."""
        to_ask_again = False
        by_message = {asked.message: node for node, asked in self._asked.items()}
        for reply in self._grid.pull_messages(list(by_message)) if by_message else []:
            node = by_message[reply.metadata.reply_to_message_id]
            asked = self._asked.pop(node)
            if reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE:
                continue  # it is asked anew when it is back
            if reply.has_error() and may_pass(reply.error) and self._faults[node] < self._config.machine.retries:
                self._faults[node] += 1
                self._events.sent_again(asked.owner or f"node {node}", describe_fault(reply.error))
                to_ask_again = True
                continue
            try:
                name = self._introduced(node, asked.owner, reply)
            except FederationError as error:
                if self._owners is None:
                    raise
                self._turn_away(node, asked.activated, str(asked.owner), str(error))
            else:
                self.nodes[name] = node
                self._why.pop(name, None)
        return to_ask_again

    def _introduced(self, node: int, owner: str | None, reply: Message) -> str:
        """Return the name of the site that a node is."""
        if reply.has_error():
            fault = describe_fault(reply.error)
            raise FederationError(fault if owner else f"node {node} {fault}")
        try:
            claimed = int(str(reply.content.metric_records[wire.SITE]["site"]))
            about = admit(reply.content, reply_rules(MessageType.QUERY, self._config, claimed, None))
            name = dict(enumerate(self._sites))[claimed]
        except (KeyError, ValueError, ReplyError):
            raise FederationError(f"{'' if owner else f'node {node} '}introduced itself out of protocol") from None
        if owner not in (None, name):
            raise FederationError(f"claims to be {name}, whose key it does not hold")
        if name in self.nodes:
            raise FederationError(f"nodes {self.nodes[name]} and {node} both claim to be {name}")
        self._tell(name, about)
        if wire.SCANS in about:
            self.scans.add(name, about.array_records[wire.SCANS][wire.HASHES].numpy())
        counts = about.metric_records[wire.SITE]
        sides = ("training", self._config.scoring.patients)
        self.cases[name] = {side: int(str(counts[f"{side}-cases"])) for side in sides}
        return name

    def _turn_away(self, node: int, activated: str | None, who: str, why: str) -> None:
        """Take no notice of a node until it has been started again."""
        self._turned_away[node] = activated
        self._why[who] = why
        self._events.site_turned_away(who, why)

"""The roster, which maps nodes to hospitals by authenticated keys, if there are any, and by their introductions."""

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
    """A pending introduction: its message, the site whose key the node has, and the node's last activation."""

    message: str
    owner: str | None
    activated: str | None


@dataclass
class _Waited:
    """Seconds of waiting for a site: those without a sign of it, and those in which it was working."""

    away: float = 0.0
    at_work: float = 0.0


class Roster:
    """The sites that have introduced themselves, by name.

    Parameters
    ----------
    grid, config, events
        As in `run_stream`.
    keys : mapping, optional
        Public key that each site's node must have authenticated with, as Flower's SuperLink stores it. Nodes with other
        keys get no messages. With None, as in a simulation, every node is trusted to be the site that it claims to be.
    introduced : callable
        Callback with a site's name and the content of its introduction.
    scans : SharedScans, optional
        Collects the hashes of sites' scans; the roster creates its own by default.
    prepared : bool
        Whether the sites' cases are already prepared, as in a simulation. Then only a fault can delay an introduction,
        and the whole wait counts.
    """

    def __init__(
        self,
        grid: Grid,
        config: Settings,
        events: RunEvents,
        keys: Mapping[str, bytes] | None = None,
        introduced: Callable[[str, RecordDict], None] = lambda site, content: None,
        scans: SharedScans | None = None,
        prepared: bool = False,
    ) -> None:
        self._grid = grid
        self._config = config
        self._events = events
        self._tell = introduced
        self._prepared = prepared
        self._owners = None if keys is None else {key: site for site, key in keys.items()}
        self._asked: dict[int, _Asked] = {}
        self._turned_away: dict[int, str | None] = {}  # last activation of the node
        self._why: dict[str, str] = {}
        self._faults: Counter[int] = Counter()
        self._sites = [site.name for site in config.sites]
        self.scans = SharedScans(config) if scans is None else scans
        self.nodes: dict[str, int] = {}
        self.cases: dict[str, dict[str, int]] = {}

    def wait_for(self, sites: Sequence[str]) -> dict[str, int]:
        """Wait until all of `sites` are present, asking every new node; return the node of each.

        If its cases are not prepared yet, a site counts as working while its node is connected and has not introduced
        itself. Without keys, any such node may be the missing one. This time, up to the config's `stage_timeout_s` in
        all, does not count as absence. Only Flower's heartbeat is visible: it comes from the hospital's node, so it
        stops if the node ends, but continues if the hospital's own program hangs. The number of prepared cases would
        say more, but is not sent.

        Raises
        ------
        FederationError
            If a site has not appeared within the config's `site_timeout_s` or was working for longer than
            `stage_timeout_s`. Without keys, also if two nodes claim one site or a node answers with a fault.
        """
        machine = self._config.machine
        waited = {site: _Waited() for site in sites}
        told: tuple[list[str], list[str]] = [], []
        before, then = set[str](), time.monotonic()
        while True:
            there = self.meet()
            missing = [site for site in sites if site not in there]
            if not missing:
                return {site: there[site] for site in sites}
            nodes = self._owing()
            owners = {asked.owner for asked in nodes.values()}
            working = not self._prepared
            busy = [site for site in missing if working and (site in owners or None in owners)]
            now = time.monotonic()
            for site in missing:  # counts as working if it was at either end of the interval
                if site in before or site in busy:
                    waited[site].at_work += now - then
                else:
                    waited[site].away += now - then
            before, then = set(busy), now
            if (missing, busy) != told:
                told = missing, busy
                if away := [site for site in missing if site not in busy]:
                    self._events.waiting(away, machine.site_timeout_s)
                if busy:
                    self._events.preparing(busy, min(len(nodes), len(busy)))
            self._give_up([site for site in missing if waited[site].at_work > machine.stage_timeout_s], silent=True)
            self._give_up([site for site in missing if waited[site].away > machine.site_timeout_s], silent=False)
            time.sleep(_POLL_S)

    def _give_up(self, sites: Sequence[str], silent: bool) -> None:
        """Raise an error if there are `sites`: they did not appear or, if `silent`, did not introduce themselves."""
        machine = self._config.machine
        if sites and silent:
            raise FederationError(f"{', '.join(sites)}: {_silence(machine.stage_timeout_s)}")
        if sites:
            why = "; ".join(f"{site} {self._why[site]}" for site in sites if site in self._why)
            raise FederationError(
                f"waited {machine.site_timeout_s:.0f} s for {', '.join(sites)}: no such site appeared"
                + (f" ({why})" if why else "")
            )

    def _owing(self) -> dict[int, _Asked]:
        """Return the connected nodes that have not introduced themselves yet."""
        there = {node.node_id for node in self._grid.get_nodes()}
        return {node: asked for node, asked in self._asked.items() if node in there}

    def name(self, node: int) -> str:
        """Return the name of a node's site, or the node's number."""
        return next((site for site, known in self.nodes.items() if known == node), f"node {node}")

    def meet(self) -> dict[str, int]:
        """Let new nodes introduce themselves; return the node of every present site.

        A hospital prepares its cases before it answers, which may take hours. This call waits half a minute; a later
        call accepts the answer.
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
        """Ask a node to introduce itself, unless it is known or was already asked since its last activation."""
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
        """Process the introductions that have arrived; return whether a node failed for a temporary reason."""
        to_ask_again = False
        by_message = {asked.message: node for node, asked in self._asked.items()}
        for reply in self._grid.pull_messages(list(by_message)) if by_message else []:
            node = by_message[reply.metadata.reply_to_message_id]
            asked = self._asked.pop(node)
            if reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE:
                continue  # it is asked again when it is back
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
        """Verify a node's introduction and return the name of its site."""
        if reply.has_error():
            expired = reply.error.code in (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)
            fault = _silence(self._config.machine.stage_timeout_s) if expired else describe_fault(reply.error)
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
        """Reject a node until it has been restarted."""
        self._turned_away[node] = activated
        self._why[who] = why
        self._events.site_turned_away(who, why)


def _silence(seconds: float) -> str:
    return f"was connected and did not introduce itself within {seconds:.0f} s"

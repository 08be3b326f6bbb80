"""Which node is which hospital: by its authenticated key, where hospitals have one, and by what it says of itself."""

import time
from collections.abc import Callable, Mapping, Sequence

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedserdiff import wire
from fedserdiff.config import ExperimentConfig
from fedserdiff.errors import FederationError, ReplyError
from fedserdiff.reply_schema import admit, reply_rules
from fedserdiff.report.events import RunEvents
from strategies.faults import describe_fault

_POLL_S = 0.5


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
    """

    def __init__(
        self,
        grid: Grid,
        config: ExperimentConfig,
        events: RunEvents,
        keys: Mapping[str, bytes] | None = None,
        introduced: Callable[[str, RecordDict], None] = lambda site, content: None,
    ) -> None:
        self._grid = grid
        self._config = config
        self._events = events
        self._tell = introduced
        self._owners = None if keys is None else {key: site for site, key in keys.items()}
        self._turned_away: dict[int, str | None] = {}  # when the node had last been activated
        self._why: dict[str, str] = {}
        self._sites = [site.name for site in config.sites]
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
        timeout = self._config.site_timeout_s
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
        """Let nodes that are new introduce themselves; return the node of every site that is there now."""
        nodes = list(self._grid.get_nodes())
        known = set(self.nodes.values())
        fresh = {}
        for node in nodes:
            owner = None if self._owners is None else self._owners.get(bytes(node.public_key))
            foreign = self._owners is not None and owner is None
            again = self._turned_away.get(node.node_id, "never") == node.last_activated_at
            if node.node_id in known or again:
                continue
            if foreign:
                self._turn_away(
                    node.node_id, node.last_activated_at, f"node {node.node_id}", "its key belongs to no site"
                )
            else:
                fresh[node.node_id] = owner
        if fresh:
            self._query(fresh, {node.node_id: node.last_activated_at for node in nodes})
        there = {node.node_id for node in nodes}
        return {site: node for site, node in self.nodes.items() if node in there}

    def _query(self, owners: Mapping[int, str | None], activations: Mapping[int, str | None]) -> None:
        """Ask nodes who they are. A hospital prepares its cases before it answers, perhaps as long as a stage."""
        timeout = self._config.stage_timeout_s
        asked = RecordDict({wire.CONFIG: ConfigRecord({"experiment": self._config.fingerprint})})
        messages = [Message(asked, node, MessageType.QUERY, ttl=timeout) for node in owners]
        replies = {
            reply.metadata.src_node_id: reply for reply in self._grid.send_and_receive(messages, timeout=timeout)
        }
        for node, owner in owners.items():
            try:
                name = self._introduced(node, owner, replies.get(node))
            except FederationError as error:
                if self._owners is None:
                    raise
                self._turn_away(node, activations[node], str(owner), str(error))
            else:
                self.nodes[name] = node

    def _introduced(self, node: int, owner: str | None, reply: Message | None) -> str:
        """Return the name of the site that a node is."""
        if reply is None or reply.has_error():
            fault = "did not answer in time" if reply is None else describe_fault(reply.error)
            raise FederationError(fault if owner else f"node {node} {fault}")
        try:
            claimed = int(str(reply.content.metric_records[wire.SITE]["site"]))
            about = admit(reply.content, reply_rules(MessageType.QUERY, self._config, claimed, None))
            name = self._sites[claimed] if claimed >= 0 else ""
        except (KeyError, ValueError, IndexError, ReplyError):
            raise FederationError(f"{'' if owner else f'node {node} '}introduced itself out of protocol") from None
        if owner not in (None, name):
            raise FederationError(f"claims to be {name}, whose key it does not hold")
        if name in self.nodes:
            raise FederationError(f"nodes {self.nodes[name]} and {node} both claim to be {name}")
        self._tell(name, about)
        counts = about.metric_records[wire.SITE]
        self.cases[name] = {kind: int(str(counts[f"{kind}-cases"])) for kind in ("training", "test")}
        return name

    def _turn_away(self, node: int, activated: str | None, who: str, why: str) -> None:
        """Take no notice of a node until it has been started again."""
        self._turned_away[node] = activated
        self._why[who] = why
        self._events.site_turned_away(who, why)

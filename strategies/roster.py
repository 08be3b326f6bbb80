"""Which node is which hospital: discovery by query, and waiting for a site that has not come yet."""

import time
from collections.abc import Sequence

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedserdiff import wire
from fedserdiff.config import ExperimentConfig
from fedserdiff.errors import FederationError
from fedserdiff.report.events import RunEvents
from strategies.base import describe_faults

_POLL_S = 0.5


class Roster:
    """The sites that have introduced themselves, by name."""

    def __init__(self, grid: Grid, config: ExperimentConfig, events: RunEvents) -> None:
        self._grid = grid
        self._config = config
        self._events = events
        self.nodes: dict[str, int] = {}
        self.introductions: dict[str, RecordDict] = {}
        self.cases: dict[str, dict[str, int]] = {}

    def wait_for(self, sites: Sequence[str]) -> dict[str, int]:
        """Return the node of each of `sites`, querying every node that is new until all have appeared.

        Raises
        ------
        FederationError
            Where a site has not appeared within the config's `site_timeout_s`, a node answers with a fault, or two
            nodes claim one site.
        """
        timeout = self._config.site_timeout_s
        end = time.monotonic() + timeout
        self._events.waiting([s for s in sites if s not in self.nodes], timeout)
        while missing := [site for site in sites if site not in self.nodes]:
            known = set(self.nodes.values())
            fresh = [node for node in self._grid.get_node_ids() if node not in known]
            if fresh:
                self._query(fresh, missing)
            elif time.monotonic() > end:
                raise FederationError(f"waited {timeout:.0f} s for {', '.join(missing)}: no such site appeared")
            else:
                time.sleep(_POLL_S)
        return {site: self.nodes[site] for site in sites}

    def _query(self, nodes: Sequence[int], missing: Sequence[str]) -> None:
        """Ask nodes who they are. A hospital prepares its cases before it answers, perhaps as long as a stage."""
        timeout = self._config.stage_timeout_s
        messages = [
            Message(RecordDict({wire.CONFIG: ConfigRecord()}), n, MessageType.QUERY, ttl=timeout) for n in nodes
        ]
        replies = list(self._grid.send_and_receive(messages, timeout=timeout))
        if failed := describe_faults(replies, {n: f"node {n}" for n in nodes}):
            raise FederationError(f"waiting for {', '.join(missing)} to introduce themselves: {failed}")
        for reply in replies:
            about = reply.content.config_records[wire.SITE]
            name, node = str(about["name"]), reply.metadata.src_node_id
            if name in self.nodes:
                raise FederationError(f"nodes {self.nodes[name]} and {node} both claim to be {name}")
            self.nodes[name] = node
            self.introductions[name] = reply.content
            self.cases[name] = {kind: int(str(about[f"{kind}-cases"])) for kind in ("training", "test")}

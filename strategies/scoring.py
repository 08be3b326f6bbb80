"""Rows of R: every stage's student scored on every site, a site that comes late catching up on what it missed."""

import time
from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedserdiff import wire
from fedserdiff.errors import FederationError
from strategies.base import ArrivalStrategy
from strategies.results import Results


class Scoring:
    """Measures rows of R and enters them in the results.

    Attributes
    ----------
    students : dict
        By row, the students that some site has not scored yet.
    """

    def __init__(self, grid: Grid, strategy: ArrivalStrategy, results: Results) -> None:
        self._grid = grid
        self._strategy = strategy
        self._results = results
        self.students: dict[int, ArrayRecord] = {}

    def add(self, student: ArrayRecord) -> None:
        """Begin the next row, of this student."""
        self.students[len(self._results.rows)] = student
        self._results.rows.append({})

    def catch_up(self, nodes: Mapping[str, int]) -> None:
        """Let the sites that are there, by name, score every student that they have not scored.

        Raises
        ------
        FederationError
            Where one of them fails or does not answer what was agreed.
        """
        for row, student in list(self.students.items()):
            scores = self._results.rows[row]
            lacking = {site: node for site, node in nodes.items() if site not in scores}
            if lacking:
                started = time.monotonic()
                self._score(row, student, lacking)
                spent = self._results.seconds.get(f"evaluation {row}", 0.0)
                self._results.seconds[f"evaluation {row}"] = spent + time.monotonic() - started
            if len(scores) == len(self._results.sites):
                del self.students[row]

    def _score(self, row: int, student: ArrayRecord, nodes: Mapping[str, int]) -> None:
        strategy = self._strategy
        timeout = strategy.config.stage_timeout_s
        strategy.events.evaluation_started(row, list(nodes))
        content = RecordDict({wire.ARRAYS: student, wire.CONFIG: ConfigRecord({"stage": row})})
        messages = [Message(content, node, MessageType.EVALUATE, ttl=timeout) for node in nodes.values()]
        replies = self._grid.send_and_receive(messages, timeout=timeout)
        by_node = {node: site for site, node in nodes.items()}
        answers, failed = strategy.accept(replies, MessageType.EVALUATE, student, by_node)
        if failed:
            raise FederationError(f"evaluation after stage {row}: {failed}")
        fresh = {}
        for site in nodes:
            strategy.count(strategy.bytes_in, site, content)
            metrics = answers[site].metric_records[wire.METRICS]
            fresh[site] = {k: float(str(v)) for k, v in metrics.items() if k != wire.WEIGHT}
        self._results.rows[row].update(fresh)
        strategy.events.stage_evaluated(row, fresh)

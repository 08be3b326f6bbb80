"""Rows of R: every stage's student scored where it is to be, a site that comes late catching up on what it missed."""

import time
from collections.abc import Mapping

from flwr.app import ArrayRecord, ConfigRecord, MessageType
from flwr.serverapp import Grid

from fedserdiff import wire
from fedserdiff.errors import FederationError
from strategies.faults import in_words
from strategies.results import Results
from strategies.stage_runner import StageRunner


class Scoring:
    """Measures rows of R and enters them in the results.

    Attributes
    ----------
    students : dict
        By row, the students that some site has yet to score.
    """

    def __init__(self, grid: Grid, runner: StageRunner, results: Results) -> None:
        self._grid = grid
        self._runner = runner
        self._results = results
        self.students: dict[int, ArrayRecord] = {}

    def add(self, student: ArrayRecord) -> None:
        """Begin the next row, of this student."""
        self.students[len(self._results.rows)] = student
        self._results.rows.append({})

    def catch_up(self, nodes: Mapping[str, int]) -> bool:
        """Let the sites that are there, by name, score every student that they have yet to; say if any was to do.

        Raises
        ------
        FederationError
            Where one of them fails or does not answer what was agreed, unless the config's `site_failure` is to go on:
            it is asked again next time.
        """
        asked = False
        for row, student in list(self.students.items()):
            lacking = {site: nodes[site] for site in self._results.missing(row) if site in nodes}
            if lacking:
                asked = True
                started = time.monotonic()
                self._score(row, student, lacking)
                spent = self._results.seconds.get(f"evaluation {row}", 0.0)
                self._results.seconds[f"evaluation {row}"] = spent + time.monotonic() - started
            if not self._results.missing(row):
                del self.students[row]
        return asked

    def see_that_all_is_scored(self) -> None:
        """End a stream.

        Raises
        ------
        FederationError
            Where a site never scored a student that it was to: R is not whole.
        """
        holes = {row: self._results.missing(row) for row in self.students}
        if holes:
            told = "; ".join(f"{', '.join(sites)} after stage {row}" for row, sites in sorted(holes.items()))
            raise FederationError(f"R is not whole, sites failed to score: {told}")

    def _score(self, row: int, student: ArrayRecord, nodes: Mapping[str, int]) -> None:
        runner = self._runner
        events, config = runner.events, runner.config
        events.evaluation_started(row, list(nodes))
        records: dict[str, ArrayRecord | ConfigRecord] = {
            wire.ARRAYS: student,
            wire.CONFIG: ConfigRecord({"stage": row}),
        }
        messages = [runner.outbox.message_to(site, node, MessageType.EVALUATE, records) for site, node in nodes.items()]
        replies = self._grid.send_and_receive(messages, timeout=config.machine.stage_timeout_s)
        by_node = {node: site for site, node in nodes.items()}
        answers, failed = runner.inbox.accept(replies, MessageType.EVALUATE, student, by_node)
        if failed and config.machine.site_failure == "fail":
            raise FederationError(f"evaluation after stage {row}: {in_words(failed)}")
        if failed:
            events.sites_failed(in_words(failed))
        fresh = {}
        for site in [site for site in nodes if site in answers]:  # in order of arrival, whoever was first to answer
            metrics = answers[site].metric_records[wire.METRICS]
            fresh[site] = {k: float(str(v)) for k, v in metrics.items() if k != wire.WEIGHT}
        self._results.rows[row].update(fresh)
        events.stage_evaluated(row, fresh)

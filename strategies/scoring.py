"""Rows of R: the scoring of every stage's student at its sites, also later if a site was missing."""

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
    """Measures rows of R and adds them to the results.

    Attributes
    ----------
    students : dict
        Students that some site still has to score, by row.
    """

    def __init__(self, grid: Grid, runner: StageRunner, results: Results) -> None:
        self._grid = grid
        self._runner = runner
        self._results = results
        self.students: dict[int, ArrayRecord] = {}

    def add(self, student: ArrayRecord) -> None:
        """Start the next row, for this student."""
        self.students[len(self._results.rows)] = student
        self._results.rows.append({})

    def catch_up(self, nodes: Mapping[str, int]) -> bool:
        """Let present sites, by name, score every student that they still have to score; return whether there was any.

        Raises
        ------
        FederationError
            If a site fails or its answer is not what was agreed, unless the config's `site_failure` is ``go-on``; then
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
        """Check at the end of a stream that R is complete.

        Raises
        ------
        FederationError
            If a site never scored a student that it had to score.
        """
        holes = {row: self._results.missing(row) for row in self.students}
        if holes:
            told = "; ".join(f"{', '.join(sites)} after stage {row}" for row, sites in sorted(holes.items()))
            raise FederationError(f"R is incomplete because sites failed to score: {told}")

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
        for site in [site for site in nodes if site in answers]:  # in order of arrival, not in that of the answers
            metrics = answers[site].metric_records[wire.METRICS]
            fresh[site] = {k: float(str(v)) for k, v in metrics.items() if k != wire.WEIGHT}
        self._results.rows[row].update(fresh)
        events.stage_evaluated(row, fresh)

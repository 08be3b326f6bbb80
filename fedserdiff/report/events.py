"""Events that a coordinator reports while it runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedserdiff.report.curves import Point


class RunEvents:
    """Listener for a run's events; this base class ignores them. Keys of `scores` look like ``refined.dice.tc``."""

    def waiting(self, sites: Sequence[str], timeout_s: float) -> None:
        """Called when the coordinator waits for missing sites."""

    def preparing(self, sites: Sequence[str], connected: int) -> None:
        """Called when the coordinator waits for sites of which `connected` have connected and prepare their cases."""

    def site_turned_away(self, who: str, why: str) -> None:
        """Called when a node is rejected as the site it claims to be, or could not introduce itself."""

    def sent_again(self, site: str, why: str) -> None:
        """Called when a message is sent again because a site failed for a temporary reason, such as a restart."""

    def went_on(self, position: str, damaged: str, moved: str) -> None:
        """Called when an interrupted run resumes after `position`.

        `damaged` says why it does not resume from a later state, or is ""; `moved` names a change of device, or is "".
        """

    def sites_left(self, stage: int, sites: Sequence[str]) -> None:
        """Called when `sites` leave the federation before a stage."""

    def stage_started(self, stage: int, stages: int, name: str, participants: Sequence[str]) -> None:
        """Called when a stage begins, in which `participants` train."""

    def round_started(self, server_round: int, rounds: int) -> None:
        """Called before a round's messages are sent."""

    def round_finished(self, losses: Mapping[str, float]) -> None:
        """Called after a round's students are aggregated; `losses` has the mean of each loss term."""

    def stage_validated(self, stage: int, curves: Mapping[str, Sequence[Point]]) -> None:
        """Called in a simulation after a stage with validation during training; `curves` are by site."""

    def sites_failed(self, what: str) -> None:
        """Called when some participants of a round failed and the round continues with the others."""

    def lesions_forgotten(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Called when a student segments earlier lesions much worse; `rows` are from ``retention`` in results.json."""

    def consolidation_started(self, stage: int, sites: Sequence[str]) -> None:
        """Called when `sites` are asked for what the method keeps from a finished stage."""

    def noted(self, text: str) -> None:
        """Called when the user should know something about what a site handed over."""

    def evaluation_started(self, stage: int, sites: Sequence[str]) -> None:
        """Called before row `stage` of R is measured; row 0 is the untrained student."""

    def stage_evaluated(self, stage: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Called when row `stage` of R is known; `scores` are by site."""

    def unknown_origin_started(self) -> None:
        """Called in a simulation before the final students are scored on scans whose hospital nobody names."""


class AllOf(RunEvents):
    """A listener that passes every event on to several listeners, in order."""

    def __init__(self, *listeners: RunEvents) -> None:
        self._listeners = listeners


def _to_all(event: str) -> Callable[..., None]:
    def tell(self: AllOf, *arguments: Any, **named: Any) -> None:
        for listener in self._listeners:
            getattr(listener, event)(*arguments, **named)

    return tell


for _event in [name for name in vars(RunEvents) if not name.startswith("_")]:
    setattr(AllOf, _event, _to_all(_event))

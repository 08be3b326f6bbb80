"""What a coordinator tells whoever watches its run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedserdiff.report.curves import Point


class RunEvents:
    """Receives the events of a run; this one ignores them all. `scores` are keyed ``refined.dice.tc`` and so on."""

    def waiting(self, sites: Sequence[str], timeout_s: float) -> None:
        """The coordinator waits for sites that are not there."""

    def preparing(self, sites: Sequence[str], connected: int) -> None:
        """The coordinator waits for sites of which so many are connected and, it takes it, prepare their cases."""

    def site_turned_away(self, who: str, why: str) -> None:
        """A node is not taken for the site that it says it is, or could not introduce itself."""

    def sent_again(self, site: str, why: str) -> None:
        """A site failed at a message for a reason that may pass, such as a restart, and is sent it again."""

    def went_on(self, position: str, damaged: str, moved: str) -> None:
        """A run whose coordinator had ended goes on after `position`.

        `damaged` is why not from a later one, or ""; `moved` says that it goes on on another kind of device, or "".
        """

    def sites_left(self, stage: int, sites: Sequence[str]) -> None:
        """`sites` leave the federation as a stage begins."""

    def stage_started(self, stage: int, stages: int, name: str, participants: Sequence[str]) -> None:
        """A stage begins; `participants` train in it."""

    def round_started(self, server_round: int, rounds: int) -> None:
        """A round's messages are about to leave."""

    def round_finished(self, losses: Mapping[str, float]) -> None:
        """A round's students have been aggregated; `losses` are the means of its terms."""

    def stage_validated(self, stage: int, curves: Mapping[str, Sequence[Point]]) -> None:
        """In a simulation a stage has been trained whose participants, by site, validated as they trained."""

    def sites_failed(self, what: str) -> None:
        """Some participants of a round failed; it goes on with the others."""

    def lesions_forgotten(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A stage's student segments lesions of earlier sites much worse; `rows` of ``retention`` in results.json."""

    def consolidation_started(self, stage: int, sites: Sequence[str]) -> None:
        """`sites` are asked for what the method keeps of a stage that has ended."""

    def evaluation_started(self, stage: int, sites: Sequence[str]) -> None:
        """Row `stage` of R is being measured; 0 is the untrained student."""

    def stage_evaluated(self, stage: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Row `stage` of R is known: scores by site."""


class AllOf(RunEvents):
    """Tells every event to several listeners, in their order."""

    def __init__(self, *listeners: RunEvents) -> None:
        self._listeners = listeners


def _to_all(event: str) -> Callable[..., None]:
    def tell(self: AllOf, *arguments: Any, **named: Any) -> None:
        for listener in self._listeners:
            getattr(listener, event)(*arguments, **named)

    return tell


for _event in [name for name in vars(RunEvents) if not name.startswith("_")]:
    setattr(AllOf, _event, _to_all(_event))

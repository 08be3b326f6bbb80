"""What a stage's last reply tells of earlier hospitals' lesions: how well students segment them, painted."""

from collections.abc import Sequence

from fedserdiff.methods.lesion_replay import LesionReplaySettings
from fedserdiff.settings.experiment import Settings


def before(place: int, region: str) -> str:
    """Return the name of the Dice, in percent, that the student of the stage before has on a hospital's lesions."""
    return f"retained-{place}-{region}-before"


def after(place: int, region: str) -> str:
    """Return the name of the same of the student that the stage ends with."""
    return f"retained-{place}-{region}-after"


def watched_places(config: Settings, server_round: object, patients: Sequence[float]) -> tuple[int, ...]:
    """Return the places, from 1, of the earlier hospitals of which a round's reply tells.

    None, unless the round is a stage's last, and where the settings have no alarm. No more than there are sites.

    Parameters
    ----------
    config : Settings
    server_round : object
        From 1, as an order has it.
    patients : sequence of float
        How many each earlier hospital says it has, in the order in which its moments are sent: 0 where it shared none.
    """
    method = config.method
    if not isinstance(method, LesionReplaySettings) or method.alarm_drop == 0 or method.teacher != "latest":
        return ()
    if server_round != config.rounds:
        return ()
    return tuple(place for place, count in enumerate(patients[: len(config.sites)], 1) if count > 0)

"""The retention figures in a stage's last reply: how well students segment earlier hospitals' lesions, painted."""

from collections.abc import Sequence

from fedserdiff.methods.lesion_replay import LesionReplaySettings
from fedserdiff.settings.experiment import Settings


def before(place: int, region: str) -> str:
    """Return the record name of the previous stage's student's Dice, in percent, on a hospital's lesions."""
    return f"retained-{place}-{region}-before"


def after(place: int, region: str) -> str:
    """Return the record name of the same Dice for the student at the end of the stage."""
    return f"retained-{place}-{region}-after"


def watched_places(config: Settings, server_round: object, patients: Sequence[float]) -> tuple[int, ...]:
    """Return the positions, from 1, of the earlier hospitals whose retention a round's reply reports.

    There are none if the round is not the last of a stage, or if the settings have no alarm. There are at most as many
    as sites.

    Parameters
    ----------
    config : Settings
    server_round : object
        Round number in an order, from 1.
    patients : sequence of float
        Number of patients that each earlier hospital reported, in the order of its moments; 0 if it shared none.
    """
    method = config.method
    if not isinstance(method, LesionReplaySettings) or method.alarm_drop == 0 or method.teacher != "latest":
        return ()
    if server_round != config.rounds:
        return ()
    return tuple(place for place, count in enumerate(patients[: len(config.sites)], 1) if count > 0)

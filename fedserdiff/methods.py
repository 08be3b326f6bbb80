"""The registry of methods: one line each, naming its half at the coordinator and its half in a hospital.

The halves are named as strings and imported by their own side, so that neither side ever imports the other.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from fedserdiff.errors import ConfigError


@dataclass(frozen=True)
class Method:
    """A way of learning from a stream of hospitals.

    Attributes
    ----------
    summary : str
        One line for help texts and reports.
    strategy : str
        The coordinator's half, ``module:class`` within `strategies`.
    objective : str
        The hospital's half, ``module:class`` within `sites.objectives`.
    terms : tuple of str
        Names of the loss terms that its objective may report.
    hands_over : str
        The record that a hospital hands over of a stage that has ended, by its name in `fedserdiff.wire`; none if "".
    error_maps : str
        The error maps that its hospitals share where nobody asks: ``null``, or ``none``.
    breaks_privacy : bool
        Whether it needs raw data of other hospitals: possible in a simulation only.
    knows_origin : bool
        Whether its scores use that a hospital knows which it is.
    federated : bool
        Whether hospitals train together by what crosses the wire. Otherwise students cross it only because a
        simulation scores them everywhere, and comparisons do not count their bytes.
    """

    summary: str
    strategy: str
    objective: str
    terms: tuple[str, ...] = ("segmentation",)
    hands_over: str = ""
    error_maps: str = "null"
    breaks_privacy: bool = False
    knows_origin: bool = False
    federated: bool = True


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "ser-diff": Method(
            "teacher features distilled at replayed synthetic error maps (arXiv 2510.06283)",
            "strategies.ser_diff:SerDiff",
            "sites.objectives.ser_diff:SerDiffObjective",
            terms=("segmentation", "distillation"),
            hands_over="error-maps",
        ),
        "ser-diff-plus": Method(
            "SER-Diff behind a site adapter: each hospital's contrast is translated to the one that the teacher knows",
            "strategies.ser_diff_plus:SerDiffPlus",
            "sites.objectives.ser_diff_plus:SerDiffPlusObjective",
            terms=("segmentation", "distillation"),
            hands_over="error-maps",
            error_maps="none",
            knows_origin=True,
        ),
        "fine-tune": Method(
            "each hospital trains the model it is handed, nothing is done against forgetting",
            "strategies.fine_tune:FineTune",
            "sites.objectives.fine_tune:FineTuneObjective",
        ),
        "distill": Method(
            "teacher features distilled on the hospital's own scans, no error maps",
            "strategies.distill:Distill",
            "sites.objectives.distill:DistillObjective",
            terms=("segmentation", "distillation"),
        ),
        "ewc": Method(
            "weights that earlier hospitals need are held in place (arXiv 1612.00796)",
            "strategies.ewc:Ewc",
            "sites.objectives.ewc:EwcObjective",
            terms=("segmentation", "consolidation"),
            hands_over="fisher",
        ),
        "image-replay": Method(
            "whole synthetic scans with masks are replayed, from a diffusion model of the first hospital's images",
            "strategies.image_replay:ImageReplay",
            "sites.objectives.image_replay:ImageReplayObjective",
            terms=("segmentation", "replay"),
            hands_over="synthetic-images",
        ),
        "local": Method(
            "each hospital alone, with a student of its own: no federation",
            "strategies.local:Local",
            "sites.objectives.fine_tune:FineTuneObjective",
            federated=False,
        ),
        "rehearsal": Method(
            "raw cases of every earlier hospital are kept and trained on again",
            "strategies.fine_tune:FineTune",
            "sites.objectives.rehearsal:RehearsalObjective",
            breaks_privacy=True,
        ),
        "pooled": Method(
            "all raw data in one imaginary hospital, as many steps as the whole stream: the upper bound",
            "strategies.pooled:Pooled",
            "sites.objectives.pooled:PooledObjective",
            breaks_privacy=True,
            federated=False,
        ),
    }
)


def label(name: str) -> str:
    """Return a method's name as people are to read it: what breaks privacy says so."""
    return f"{name} (breaks privacy)" if get_method(name).breaks_privacy else name


def origin_note(names: Iterable[str]) -> str | None:
    """Return what is to be said beside scores of these methods; None where none knows where a scan comes from."""
    knowing = [name for name in names if get_method(name).knows_origin]
    if not knowing:
        return None
    return (
        f"{', '.join(knowing)}: a hospital is scored through its own adapter, so it has to know which hospital it is."
    )


def get_method(name: str) -> Method:
    """Return the method called `name`.

    Raises
    ------
    ConfigError
        Where there is none; the text lists those there are.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}: choose one of {', '.join(METHODS)}")
    return METHODS[name]

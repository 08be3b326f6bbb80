"""The stream: which sites train in which stage, and what a method sends, asks for and keeps on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, RecordDict

from fedserdiff.methods import get_method, half_of
from fedserdiff.settings.experiment import Settings


@dataclass(frozen=True)
class Stage:
    """One stage of the stream: its `name`, and the sites that train in it.

    `length` says how many times as long as the config has it the stage is: 1, but for a method that does the whole
    stream's work at once.
    """

    name: str
    participants: tuple[str, ...]
    length: int = 1


class ArrivalStream:
    """The coordinator's half of a method, which overrides what it needs of these hooks.

    It sends nothing and averages nothing: `strategies.stage_runner.StageRunner` does, and calls the hooks.

    Parameters
    ----------
    config : Settings
        The experiment.

    Attributes
    ----------
    stage : int
        The number of the stage at work, from 1; 0 before the first.
    plan : Stage
        That stage.
    teacher : ArrayRecord or None
        The frozen student that teaches, where the method has one.
    teacher_stage : int
        The stage that the teacher was the student of; 0 where there is none.
    """

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.stage = 0
        self.plan = Stage("", ())
        self.teacher: ArrayRecord | None = None
        self.teacher_stage = 0

    def stages(self, sites: Sequence[str]) -> list[Stage]:
        """Return the stream's stages: one a site, in order of arrival."""
        arriving = self.config.training.participation == "arriving"
        return [Stage(site, (site,) if arriving else tuple(sites[: k + 1])) for k, site in enumerate(sites)]

    def deployed(self, sites: Sequence[str]) -> list[int]:
        """Return, for each site, the stage whose student it uses when the stream has ended: the last."""
        return [len(self.stages(sites))] * len(sites)

    def initial(self, untrained: ArrayRecord, standing: ArrayRecord) -> ArrayRecord:
        """Return the student that a stage starts from: the one that the last stage ended with."""
        return standing

    def begin_stage(self, stage: int, plan: Stage) -> None:
        """Take the stage's number (from 1) and its plan; called again where a run goes on within the stage."""
        self.stage = stage
        self.plan = plan

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return what a participant gets beside the student: nothing."""
        return {}

    def on_fit_reply(self, site: str, content: RecordDict) -> None:
        """Take note of a student that came back from a round."""

    def consolidates(self) -> bool:
        """Say whether the stage's participants are asked, when it has ended, for what the method keeps of it."""
        return False

    def keep(self, site: str, content: RecordDict) -> None:
        """Keep what a participant handed over of the stage."""

    def end_stage(self, arrays: ArrayRecord) -> None:
        """Take the stage's final student."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the method keeps between stages besides the teacher, as `torch.save` can write it: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` returned in a process that has ended."""


def make_stream(config: Settings) -> ArrivalStream:
    """Return the coordinator's half of the config's method."""
    method = get_method(config.method.name)
    stream: ArrivalStream = half_of(method, method.strategy)(config)
    return stream

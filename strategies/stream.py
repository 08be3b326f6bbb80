"""The stream: which sites train in which stage, and what a method sends, asks for and keeps on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, RecordDict

from fedserdiff.methods import get_method, half_of
from fedserdiff.methods.method import Method
from fedserdiff.settings.experiment import Settings


@dataclass(frozen=True)
class Stage:
    """One stage of the stream: its `name`, and the sites that train in it.

    `leaving` are the sites that leave as it begins, `away` all that have left by then and not returned: they neither
    train nor score. `length` says how many times as long as the config has it the stage is: 1, except for a method that
    does the whole stream's work at once. `pools` says that its one participant plays a hospital to which all cases
    belong.
    """

    name: str
    participants: tuple[str, ...]
    leaving: tuple[str, ...] = ()
    away: tuple[str, ...] = ()
    length: int = 1
    pools: bool = False


def departures_of(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Return who leaves: ``site``, the ``stage`` as which begins, stages ``trained`` in before, when it ``returns``."""
    found = []
    for number, stage in enumerate(stages, 1):
        for site in stage.leaving:
            trained = [n for n, earlier in enumerate(stages[: number - 1], 1) if site in earlier.participants]
            back = next((n for n, later in enumerate(stages, 1) if n > number and site not in later.away), None)
            found.append({"site": site, "stage": number, "trained": trained, "returns": back})
    return found


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
        """Return the stages of the experiment's timetable."""
        table = self.config.timetable_of(sites)
        by_stage = zip(table.names, table.training, table.leaving, table.away, strict=True)
        return [Stage(name, training, leaving, away) for name, training, leaving, away in by_stage]

    def deployed(self, sites: Sequence[str]) -> list[int]:
        """Return, for each site, the stage whose student it uses at the end: the last one before it left for good."""
        stages = self.stages(sites)
        return [max(n for n, stage in enumerate(stages, 1) if site not in stage.away) for site in sites]

    def arrivals(self, sites: Sequence[str]) -> list[int]:
        """Return, for each site, the first stage in which it trains; none if sites do not share one student."""
        table = self.config.timetable_of(sites)
        return [table.arrival(site) for site in sites]

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

    def watched(self, server_round: int) -> dict[int, str]:
        """Return, by place from 1, the earlier sites of which a round's replies say what the student keeps: none."""
        return {}

    def consolidates(self) -> bool:
        """Say whether the stage's participants are asked, when it has ended, for what the method keeps of it."""
        return False

    def asks_for(self) -> tuple[str, ...]:
        """Return the names of the records that the stage's participants are asked for when it has ended."""
        return get_method(self.config.method.name).hands_over_all if self.consolidates() else ()

    def teacher_stages(self) -> list[int]:
        """Return, for each part of the method, the stage whose student teaches it; 0 where none does."""
        return [self.teacher_stage]

    def keep(self, site: str, content: RecordDict) -> None:
        """Keep what a participant handed over of the stage."""

    def end_stage(self, arrays: ArrayRecord) -> None:
        """Take the stage's final student."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the method keeps between stages, as `torch.save` can write it: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` returned in a process that has ended."""


def make_stream(config: Settings) -> ArrivalStream:
    """Return the coordinator's half of the config's method; several, as one, where it combines some."""
    parts = get_method(config.method.name).parts
    streams: list[ArrivalStream] = [half_of(part, part.strategy)(config) for part in parts]
    return streams[0] if len(streams) == 1 else CombinedStream(config, streams, parts)


class CombinedStream(ArrivalStream):
    """Several methods' halves as one: each keeps and sends what it does by itself. The first has the stream.

    Parameters
    ----------
    config : Settings
        The experiment.
    streams : sequence of ArrivalStream
    parts : sequence of Method
        Whose they are.
    """

    def __init__(self, config: Settings, streams: Sequence[ArrivalStream], parts: Sequence[Method]) -> None:
        super().__init__(config)
        self._first = streams[0]
        self._parts = list(zip(parts, streams, strict=True))

    def stages(self, sites: Sequence[str]) -> list[Stage]:
        """Return the first part's stages."""
        return self._first.stages(sites)

    def deployed(self, sites: Sequence[str]) -> list[int]:
        """Return what the first part says."""
        return self._first.deployed(sites)

    def arrivals(self, sites: Sequence[str]) -> list[int]:
        """Return what the first part says."""
        return self._first.arrivals(sites)

    def initial(self, untrained: ArrayRecord, standing: ArrayRecord) -> ArrayRecord:
        """Return what the first part starts from."""
        return self._first.initial(untrained, standing)

    def begin_stage(self, stage: int, plan: Stage) -> None:
        """Have every part begin the stage."""
        super().begin_stage(stage, plan)
        for _, stream in self._parts:
            stream.begin_stage(stage, plan)

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return all that the parts send; a teacher that two of them have goes once."""
        return {name: r for _, stream in self._parts for name, r in stream.records_for(site, server_round).items()}

    def on_fit_reply(self, site: str, content: RecordDict) -> None:
        """Have every part take note."""
        for _, stream in self._parts:
            stream.on_fit_reply(site, content)

    def watched(self, server_round: int) -> dict[int, str]:
        """Return the sites that a part watches."""
        return {place: site for _, stream in self._parts for place, site in stream.watched(server_round).items()}

    def asks_for(self) -> tuple[str, ...]:
        """Return the records that the parts ask for which ask at this stage."""
        return tuple(part.hands_over for part, stream in self._parts if stream.consolidates())

    def teacher_stages(self) -> list[int]:
        """Return each part's."""
        return [stream.teacher_stage for _, stream in self._parts]

    def keep(self, site: str, content: RecordDict) -> None:
        """Give each part's record to it."""
        for part, stream in self._parts:
            if part.hands_over in content.array_records:
                stream.keep(site, content)

    def end_stage(self, arrays: ArrayRecord) -> None:
        """Have every part take the student."""
        for _, stream in self._parts:
            stream.end_stage(arrays)
        self._find_teacher()

    def state_dict(self) -> dict[str, Any]:
        """Return what each part keeps, by its method's name."""
        return {part.name: stream.state_dict() for part, stream in self._parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have every part go on."""
        for part, stream in self._parts:
            stream.load_state_dict(state[part.name])
        self._find_teacher()

    def _find_teacher(self) -> None:
        """Take the first teacher there is as the one that stands for the method: a run leaves it beside its student."""
        taught = (stream for _, stream in self._parts if stream.teacher is not None)
        if (stream := next(taught, None)) is not None:
            self.teacher, self.teacher_stage = stream.teacher, stream.teacher_stage

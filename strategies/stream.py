"""The stream: which sites train in which stage, and what a method sends, requests and keeps."""

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

    `leaving` are the sites that leave as it begins. `away` are all sites that have left by then and not returned; they
    neither train nor score. `length` is the stage's length as a multiple of the config's: 1, except for a method that
    does the whole stream's work at once. `pools` says whether its one participant represents a hospital with all cases.
    """

    name: str
    participants: tuple[str, ...]
    leaving: tuple[str, ...] = ()
    away: tuple[str, ...] = ()
    length: int = 1
    pools: bool = False


def departures_of(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Return a row for each departure: ``site``, ``stage`` before which it leaves, stages ``trained``, ``returns``."""
    found = []
    for number, stage in enumerate(stages, 1):
        for site in stage.leaving:
            trained = [n for n, earlier in enumerate(stages[: number - 1], 1) if site in earlier.participants]
            back = next((n for n, later in enumerate(stages, 1) if n > number and site not in later.away), None)
            found.append({"site": site, "stage": number, "trained": trained, "returns": back})
    return found


class ArrivalStream:
    """The coordinator's half of a method. Methods override the hooks that they need.

    It neither sends nor aggregates: `strategies.stage_runner.StageRunner` does that and calls the hooks.

    Parameters
    ----------
    config : Settings
        Settings of the experiment.

    Attributes
    ----------
    stage : int
        Number of the current stage, from 1; 0 before the first.
    plan : Stage
        The current stage.
    teacher : ArrayRecord or None
        The frozen student that is the teacher, if the method has one.
    teacher_stage : int
        The stage whose student became the teacher; 0 if there is none.
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
        """Return, for each site, the stage whose student it uses at the end: the last stage before it left for good."""
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
        """Set the stage's number (from 1) and its plan; called again if a run resumes within the stage."""
        self.stage = stage
        self.plan = plan

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return the records that a participant gets in addition to the student; none by default."""
        return {}

    def on_fit_reply(self, site: str, content: RecordDict) -> None:
        """Process a site's reply to a round; does nothing by default."""

    def watched(self, server_round: int) -> dict[int, str]:
        """Return, by number from 1, the earlier sites whose retention a round's replies report; none by default."""
        return {}

    def consolidates(self) -> bool:
        """Return whether the stage's participants are asked after the stage for records that the method keeps."""
        return False

    def asks_for(self) -> tuple[str, ...]:
        """Return the names of the records that the stage's participants are asked for after the stage."""
        return get_method(self.config.method.name).hands_over_all if self.consolidates() else ()

    def teacher_stages(self) -> list[int]:
        """Return, for each part of the method, the stage whose student is its teacher, or 0."""
        return [self.teacher_stage]

    def keep(self, site: str, content: RecordDict) -> None:
        """Keep the records that a participant handed over after the stage; does nothing by default."""

    def note_on(self, site: str, content: RecordDict) -> str:
        """Return what the user should know about the records that a participant handed over; empty by default."""
        return ""

    def end_stage(self, arrays: ArrayRecord) -> None:
        """Process the stage's final student; does nothing by default."""

    def state_dict(self) -> dict[str, Any]:
        """Return the method's state between stages, in a form for `torch.save`; empty by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`; does nothing by default."""


def make_stream(config: Settings) -> ArrivalStream:
    """Create the coordinator's half of the config's method; for a combination of methods, combine their halves."""
    parts = get_method(config.method.name).parts
    streams: list[ArrivalStream] = [half_of(part, part.strategy)(config) for part in parts]
    return streams[0] if len(streams) == 1 else CombinedStream(config, streams, parts)


class CombinedStream(ArrivalStream):
    """Combination of several methods' halves: each keeps and sends its own records. The first one determines the
    stages.

    Parameters
    ----------
    config : Settings
        Settings of the experiment.
    streams : sequence of ArrivalStream
    parts : sequence of Method
        The methods of the streams.
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
        """Return the student that the first part starts from."""
        return self._first.initial(untrained, standing)

    def begin_stage(self, stage: int, plan: Stage) -> None:
        """Let every part begin the stage."""
        super().begin_stage(stage, plan)
        for _, stream in self._parts:
            stream.begin_stage(stage, plan)

    def records_for(self, site: str, server_round: int) -> dict[str, ArrayRecord]:
        """Return the records of all parts; a teacher that two parts share is sent once."""
        return {name: r for _, stream in self._parts for name, r in stream.records_for(site, server_round).items()}

    def on_fit_reply(self, site: str, content: RecordDict) -> None:
        """Let every part process the reply."""
        for _, stream in self._parts:
            stream.on_fit_reply(site, content)

    def watched(self, server_round: int) -> dict[int, str]:
        """Return the sites that any part watches."""
        return {place: site for _, stream in self._parts for place, site in stream.watched(server_round).items()}

    def asks_for(self) -> tuple[str, ...]:
        """Return the records of the parts that ask for records at this stage."""
        return tuple(part.hands_over for part, stream in self._parts if stream.consolidates())

    def teacher_stages(self) -> list[int]:
        """Return the teacher's stage of each part."""
        return [stream.teacher_stage for _, stream in self._parts]

    def keep(self, site: str, content: RecordDict) -> None:
        """Pass each part its record."""
        for part, stream in self._parts:
            if part.hands_over in content.array_records:
                stream.keep(site, content)

    def note_on(self, site: str, content: RecordDict) -> str:
        """Return the notes of the parts to which a record belongs."""
        parts = [stream for part, stream in self._parts if part.hands_over in content.array_records]
        return "; ".join(filter(None, (stream.note_on(site, content) for stream in parts)))

    def end_stage(self, arrays: ArrayRecord) -> None:
        """Let every part process the student."""
        for _, stream in self._parts:
            stream.end_stage(arrays)
        self._find_teacher()

    def state_dict(self) -> dict[str, Any]:
        """Return each part's state, by its method's name."""
        return {part.name: stream.state_dict() for part, stream in self._parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of every part."""
        for part, stream in self._parts:
            stream.load_state_dict(state[part.name])
        self._find_teacher()

    def _find_teacher(self) -> None:
        """Use the first teacher of any part as the method's teacher, which a run stores beside its student."""
        taught = (stream for _, stream in self._parts if stream.teacher is not None)
        if (stream := next(taught, None)) is not None:
            self.teacher, self.teacher_stage = stream.teacher, stream.teacher_stage

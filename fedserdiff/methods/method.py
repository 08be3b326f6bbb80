"""What is declared of a method: its two halves, its settings, and what its hospitals hand over."""

from dataclasses import dataclass
from typing import Literal, Self

from fedserdiff.errors import ConfigError
from fedserdiff.settings.declaration import Group, setting

TAKEN = frozenset({"arrays", "teacher", "config", "left-out", "metrics", "site", "scan-hashes"})
"""Names of records that are no method's: `fedserdiff.wire` says what they hold."""

Teacher = Literal["first", "latest"]
SharedErrorMaps = Literal["null", "mri", "none"]
Arrival = Literal["in-turn", "together"]
Strategy = Literal["FedAvg", "FedAvgM", "FedAdagrad", "FedAdam", "FedYogi", "FedTrimmedAvg", "FedMedian"]
GroupName = Literal["alone", "together", "in-turn", "raw-data"]


class MethodSettings(Group):
    """A method's name and, in a subclass, settings of its own."""

    name: str

    @classmethod
    def of(cls, method: "MethodSettings") -> Self:
        """Return a method's settings as those of this class.

        Raises
        ------
        TypeError
            If they are another class's.
        """
        if not isinstance(method, cls):
            raise TypeError(f"{method.name} has no {cls.__name__}")
        return method


class NoSettings(MethodSettings):
    """Of a method that has none."""


class Together(MethodSettings):
    """What methods share by which all hospitals train from the start."""

    rounds: int = setting(
        20,
        "Rounds of training and averaging of the one stage in which all hospitals train: no more than its steps or "
        "epochs.",
        ge=1,
    )


class Distilling(MethodSettings):
    """What methods that distil a teacher share."""

    lambda_kd: float = setting(
        1.0,
        "λ, the weight of distillation or replay against segmentation (the paper leaves it open).",
        ge=0,
        after_first_stage=True,
    )
    gamma: float = setting(
        1.0, "γ, the weight of the covariance term within distillation.", ge=0, after_first_stage=True
    )
    teacher: Teacher = setting(
        "first",
        "Whose student is frozen as the teacher: `first` (stage 1's, as in the paper) or `latest` (every stage's).",
        after_first_stage=True,
    )


@dataclass(frozen=True)
class Method:
    """A way of learning from a stream of hospitals.

    Attributes
    ----------
    name : str
        As people write it.
    summary : str
        One line for help texts and reports.
    strategy : str
        The coordinator's half, ``module:class``, a subclass of `strategies.stream.ArrivalStream`.
    objective : str
        The hospital's half, ``module:class``, a subclass of `sites.objectives.base.Objective`. Halves are named as
        strings and imported by their own side, so that neither side ever imports the other.
    settings : type of MethodSettings
        The class that declares the method's own settings.
    terms : tuple of str
        Names of the loss terms that its objective may report.
    hands_over : str
        Name of the record that a hospital hands over of a stage that has ended, and no other record's; none if "".
    records : str
        What that record may hold, ``module:function``: of the settings and of a student as it crosses the wire, a
        record of one vector, the function returns an `ArrayRule` of `fedserdiff.reply_schema` for each of the record's
        arrays, by name. Where it returns none, nothing may be handed over under those settings.
    every_round : bool
        Whether a hospital hands that record over with each round's change, and not when a stage has ended.
    breaks_privacy : bool
        Whether it needs raw data of other hospitals: possible in a simulation only.
    knows_origin : bool
        Whether its scores use that a hospital knows which it is.
    changes_batch : bool
        Whether it trains on other samples than those that are drawn: then no other method's terms are of its batch.
    federated : bool
        Whether hospitals train together by what crosses the wire. Otherwise students cross it only because a
        simulation scores them everywhere, and comparisons do not count their bytes.
    arrival : str
        How hospitals arrive where `training.arrival` leaves it to the method: ``in-turn``, a stage each, or
        ``together``, in one stage.
    aggregation : str
        Flower's strategy by which students become one, where `aggregation.strategy` leaves it to the method.
    inertia : float
        The most that a stage keeps of the student that it began with, where `aggregation.inertia` leaves it to the
        method.
    combines : tuple of Method
        The methods whose terms this one adds up, where `fedserdiff.methods.combination` made it.
    """

    name: str
    summary: str
    strategy: str
    objective: str
    settings: type[MethodSettings] = NoSettings
    terms: tuple[str, ...] = ("segmentation",)
    hands_over: str = ""
    records: str = ""
    every_round: bool = False
    breaks_privacy: bool = False
    knows_origin: bool = False
    changes_batch: bool = False
    federated: bool = True
    arrival: Arrival = "in-turn"
    aggregation: Strategy = "FedAvg"
    inertia: float = 0.0
    combines: tuple["Method", ...] = ()

    @property
    def group(self) -> GroupName:
        """Which methods it is compared with first.

        ``raw-data`` where it breaks privacy, ``alone`` without a federation, else as its hospitals arrive.
        """
        if self.breaks_privacy:
            return "raw-data"
        return self.arrival if self.federated else "alone"

    @property
    def parts(self) -> tuple["Method", ...]:
        """The methods that this one combines: itself, where it combines none."""
        return self.combines or (self,)

    @property
    def hands_over_all(self) -> tuple[str, ...]:
        """Names of the records that a hospital may hand over, one a part at most."""
        return tuple(part.hands_over for part in self.parts if part.hands_over)

    def __post_init__(self) -> None:
        if self.hands_over in TAKEN or self.hands_over.startswith("teacher-"):
            raise ConfigError(f"method {self.name}: hands_over: {self.hands_over!r} is the name of another record")
        if bool(self.hands_over) != bool(self.records):
            raise ConfigError(f"method {self.name}: hands_over, records: name a record and its rules, or neither")

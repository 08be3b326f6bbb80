"""The declaration of a method: its two halves, its settings, and the record that its hospitals hand over."""

from dataclasses import dataclass
from typing import Literal, Self

from fedserdiff.errors import ConfigError
from fedserdiff.settings.declaration import Group, setting

TAKEN = frozenset({"arrays", "teacher", "config", "left-out", "metrics", "site", "scan-hashes"})
"""Names of records that methods may not use; `fedserdiff.wire` describes these records."""

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
        """Return a method's settings as an instance of this class.

        Raises
        ------
        TypeError
            If they belong to another class.
        """
        if not isinstance(method, cls):
            raise TypeError(f"the settings of {method.name} are not {cls.__name__}")
        return method


class NoSettings(MethodSettings):
    """The settings class of a method without settings."""


class Together(MethodSettings):
    """The settings that methods share in which all hospitals train from the start."""

    rounds: int = setting(
        20,
        "Rounds of training and averaging in the single stage in which all hospitals train; at most its steps or "
        "epochs.",
        ge=1,
    )


class Distilling(MethodSettings):
    """The settings that methods share which distil a teacher."""

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
        "Student that is frozen as the teacher: that of the `first` stage (as in the paper), or the `latest` of every "
        "stage.",
        after_first_stage=True,
    )


@dataclass(frozen=True)
class Method:
    """A way of learning from a stream of hospitals.

    Attributes
    ----------
    name : str
        Name in settings and commands.
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
        Name of the record that a hospital hands over after a stage, used by no other record; "" if there is none.
    records : str
        Rules for that record, ``module:function``. The function takes the settings and a student's weights, a record
        with one vector, and returns an `ArrayRule` of `fedserdiff.reply_schema` for each of the record's arrays, by
        name. If it returns none, nothing may be handed over with those settings.
    every_round : bool
        Whether a hospital hands that record over with each round's change instead of after a stage.
    breaks_privacy : bool
        Whether it needs raw data of other hospitals, which is possible only in a simulation.
    knows_origin : bool
        Whether its scores depend on knowing the hospital of each scan.
    changes_batch : bool
        Whether it trains on other samples than the drawn ones, so that it cannot add terms to another method's batch.
    federated : bool
        Whether hospitals train together through messages. Otherwise students are sent only because a simulation scores
        them everywhere, and comparisons do not count their bytes.
    arrival : str
        How hospitals arrive if `training.arrival` leaves it to the method: ``in-turn``, one stage each, or
        ``together``, in one stage.
    aggregation : str
        Flower strategy that aggregates students, if `aggregation.strategy` leaves it to the method.
    inertia : float
        Largest share that a stage keeps of its initial student, if `aggregation.inertia` leaves it to the method.
    combines : tuple of Method
        The methods whose terms this one adds up, if `fedserdiff.methods.combination` made it.
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
        """Group of methods with which it is compared first.

        It is ``raw-data`` if the method breaks privacy, ``alone`` without a federation, and otherwise its `arrival`.
        """
        if self.breaks_privacy:
            return "raw-data"
        return self.arrival if self.federated else "alone"

    @property
    def parts(self) -> tuple["Method", ...]:
        """The methods that this one combines; itself if it combines none."""
        return self.combines or (self,)

    @property
    def hands_over_all(self) -> tuple[str, ...]:
        """Names of the records that a hospital may hand over, at most one per combined method."""
        return tuple(part.hands_over for part in self.parts if part.hands_over)

    def __post_init__(self) -> None:
        if self.hands_over in TAKEN or self.hands_over.startswith("teacher-"):
            raise ConfigError(f"method {self.name}: hands_over: {self.hands_over!r} is already the name of a record")
        if bool(self.hands_over) != bool(self.records):
            raise ConfigError(f"method {self.name}: hands_over, records: declare a record with its rules, or neither")

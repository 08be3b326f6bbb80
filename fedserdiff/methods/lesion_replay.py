"""Lesion replay: lesions of earlier hospitals painted into the scans of a later one."""

from fedserdiff.methods.method import Distilling, Method, Teacher
from fedserdiff.settings.declaration import setting


class LesionReplaySettings(Distilling):
    """Settings of lesion replay (values are our choice, measured: docs/explanation/real-hospitals.md)."""

    teacher: Teacher = setting(
        "latest",
        "Whose student is frozen as the teacher: `first` (stage 1's) or `latest` (every stage's).",
        after_first_stage=True,
    )
    painted_share: float = setting(
        0.25,
        "Share of earlier hospitals' patients that stand for them in a batch: of P earlier and n own patients it is "
        "painted_share · P ÷ (painted_share · P + n) of a batch that gets earlier hospitals' lesions.",
        ge=0,
        le=1,
        after_first_stage=True,
    )
    least_patients: int = setting(
        5,
        "Fewest patients over whom moments are shared: a class that fewer have counts as absent.",
        ge=5,
        after_first_stage=True,
    )
    distillation: float = setting(
        0.3,
        "Weight of distillation as a share of λ, where all patients so far are earlier hospitals': it shrinks with the "
        "share that they are. Painted samples are distilled, outputs with features.",
        ge=0,
        after_first_stage=True,
    )
    alarm_drop: float = setting(
        0.1,
        "By how much the Dice of a region of an earlier hospital's lesions, painted, may fall in a stage before the "
        "coordinator warns; 0 is never. It takes the latest teacher.",
        ge=0,
        le=1,
        after_first_stage=True,
    )


METHOD = Method(
    "lesion-replay",
    "earlier hospitals' lesions, drawn from moments over patients, are painted into a hospital's own scans",
    "strategies.lesion_replay:LesionReplay",
    "sites.objectives.lesion_replay:LesionReplayObjective",
    LesionReplaySettings,
    terms=("segmentation", "distillation"),
    hands_over="lesion-moments",
    records="fedserdiff.reply_schema:lesion_moments",
    changes_batch=True,
    inertia=0.5,
)

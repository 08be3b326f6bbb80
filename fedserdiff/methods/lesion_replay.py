"""Lesion replay: lesions of earlier hospitals are painted into the scans of a later one."""

from fedserdiff.methods.method import Distilling, Method, Teacher
from fedserdiff.settings.declaration import setting


class LesionReplaySettings(Distilling):
    """Settings of lesion replay (values are our choice, measured: docs/explanation/real-hospitals.md)."""

    teacher: Teacher = setting(
        "latest",
        "Student that is frozen as the teacher: that of the `first` stage, or the `latest` of every stage.",
        after_first_stage=True,
    )
    painted_share: float = setting(
        0.25,
        "Weight of an earlier hospital's patient in a batch, relative to an own one. With P earlier and n own "
        "patients, a share painted_share · P ÷ (painted_share · P + n) of a batch gets earlier hospitals' lesions.",
        ge=0,
        le=1,
        after_first_stage=True,
    )
    least_patients: int = setting(
        5,
        "Least number of patients for shared moments: a class that fewer patients have counts as absent.",
        ge=5,
        after_first_stage=True,
    )
    distillation: float = setting(
        0.3,
        "Weight of distillation as a share of λ, multiplied by earlier hospitals' share of all patients so far. "
        "Painted samples are distilled, with features and outputs.",
        ge=0,
        after_first_stage=True,
    )
    alarm_drop: float = setting(
        0.1,
        "Largest drop, in a stage, of a region's Dice on an earlier hospital's painted lesions before the coordinator "
        "warns; 0 turns warnings off. It needs the latest teacher.",
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
    inertia=0.25,
)

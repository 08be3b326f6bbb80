"""Replay of raw cases."""

from fedserdiff.methods.method import Method, MethodSettings
from fedserdiff.settings.declaration import setting


class RehearsalSettings(MethodSettings):
    """Settings of rehearsal."""

    share: float = setting(
        0.25,
        "Share of each past site's training patients that is kept for further training.",
        gt=0,
        le=1,
        after_first_stage=True,
    )


METHOD = Method(
    "rehearsal",
    "raw cases of every earlier hospital are kept and trained on again",
    "strategies.fine_tune:FineTune",
    "sites.objectives.rehearsal:RehearsalObjective",
    RehearsalSettings,
    breaks_privacy=True,
)

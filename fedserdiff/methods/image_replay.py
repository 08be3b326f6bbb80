"""Replay of complete synthetic scans."""

from fedserdiff.methods.method import Method, MethodSettings, Teacher
from fedserdiff.settings.declaration import setting


class ImageReplaySettings(MethodSettings):
    """Settings of image replay."""

    lambda_kd: float = setting(1.0, "λ, the weight of replay against segmentation.", ge=0, after_first_stage=True)
    teacher: Teacher = setting(
        "first",
        "Source of replayed images: `first` for the first hospital's, `latest` for every earlier hospital's.",
        after_first_stage=True,
    )


METHOD = Method(
    "image-replay",
    "whole synthetic scans with masks are replayed, from a diffusion model of the first hospital's images",
    "strategies.image_replay:ImageReplay",
    "sites.objectives.image_replay:ImageReplayObjective",
    ImageReplaySettings,
    terms=("segmentation", "replay"),
    hands_over="synthetic-images",
    records="fedserdiff.reply_schema:synthetic_images",
)

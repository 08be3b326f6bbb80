"""DER++ on synthetic scans: masks and a teacher's outputs are replayed."""

from fedserdiff.methods.image_replay import METHOD as IMAGE_REPLAY
from fedserdiff.methods.image_replay import ImageReplaySettings
from fedserdiff.methods.method import Method

METHOD = Method(
    "der",
    "image-replay that also distils the teacher's outputs on the replayed scans (arXiv 2004.07211)",
    "strategies.der:Der",
    "sites.objectives.der:DerObjective",
    ImageReplaySettings,
    terms=("segmentation", "replay", "distillation"),
    hands_over=IMAGE_REPLAY.hands_over,
    records=IMAGE_REPLAY.records,
)

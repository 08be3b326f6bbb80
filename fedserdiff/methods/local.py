"""Local training: each hospital alone, without a federation."""

from fedserdiff.methods.method import Method

METHOD = Method(
    "local",
    "each hospital trains its own student alone, without a federation",
    "strategies.local:Local",
    "sites.objectives.fine_tune:FineTuneObjective",
    federated=False,
)

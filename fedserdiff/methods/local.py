"""No federation: each hospital alone."""

from fedserdiff.methods.method import Method

METHOD = Method(
    "local",
    "each hospital alone, with a student of its own: no federation",
    "strategies.local:Local",
    "sites.objectives.fine_tune:FineTuneObjective",
    federated=False,
)

"""Training on pooled raw data: the upper bound."""

from fedserdiff.methods.method import Method

METHOD = Method(
    "pooled",
    "all raw data in one imaginary hospital, with as many steps as the whole stream: the upper bound",
    "strategies.pooled:Pooled",
    "sites.objectives.pooled:PooledObjective",
    breaks_privacy=True,
    federated=False,
)

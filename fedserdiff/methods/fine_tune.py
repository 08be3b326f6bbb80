"""Fine-tuning: the lower bound."""

from fedserdiff.methods.method import Method

METHOD = Method(
    "fine-tune",
    "each hospital trains the model that it receives, with no measure against forgetting",
    "strategies.fine_tune:FineTune",
    "sites.objectives.fine_tune:FineTuneObjective",
)

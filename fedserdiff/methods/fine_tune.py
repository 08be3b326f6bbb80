"""Fine-tuning: the lower bound."""

from fedserdiff.methods.method import Method

METHOD = Method(
    "fine-tune",
    "each hospital trains the model it is handed, nothing is done against forgetting",
    "strategies.fine_tune:FineTune",
    "sites.objectives.fine_tune:FineTuneObjective",
)

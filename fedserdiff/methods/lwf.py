"""Learning without Forgetting: the last stage's outputs are distilled on the hospital's own scans."""

from fedserdiff.methods.method import Method, MethodSettings
from fedserdiff.settings.declaration import setting


class LwfSettings(MethodSettings):
    """Settings of LwF."""

    lambda_kd: float = setting(1.0, "λ, the weight of distillation against segmentation.", ge=0, after_first_stage=True)


METHOD = Method(
    "lwf",
    "the last stage's outputs are distilled on the hospital's own scans (arXiv 1606.09282)",
    "strategies.lwf:Lwf",
    "sites.objectives.lwf:LwfObjective",
    LwfSettings,
    terms=("segmentation", "distillation"),
)

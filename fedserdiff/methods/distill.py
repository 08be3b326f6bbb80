"""Distillation on a hospital's own scans."""

from fedserdiff.methods.method import Distilling, Method

METHOD = Method(
    "distill",
    "teacher features distilled on the hospital's own scans, no error maps",
    "strategies.distill:Distill",
    "sites.objectives.distill:DistillObjective",
    Distilling,
    terms=("segmentation", "distillation"),
)

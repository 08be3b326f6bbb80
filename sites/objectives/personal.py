"""Objectives of methods with personal weights, which stay at a hospital."""

from torch import nn

from fedserdiff.diffusion.refiner import Student
from sites.objectives.base import Objective

_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._NormBase)


class FedBNObjective(Objective):
    """L = L_seg; scales and biases of normalisation stay at the hospital (arXiv 2102.07623).

    The paper's networks use batch normalisation. Group normalisation, which is used here, has no running statistics, so
    only its scales and biases are kept.
    """

    @staticmethod
    def personal(student: Student) -> tuple[str, ...]:
        """Return the names of the weights of all normalisation layers."""
        norms = [name for name, module in student.named_modules() if isinstance(module, _NORMS)]
        return tuple(name for name, _ in student.named_parameters() if name.rpartition(".")[0] in norms)


class FedPerObjective(Objective):
    """L = L_seg; the last layer of each network stays at the hospital (arXiv 1912.00818)."""

    @staticmethod
    def personal(student: Student) -> tuple[str, ...]:
        """Return the names of the weights in each network's last module that has weights."""
        last: list[str] = []
        for network in ("coarse", "refiner"):
            names = [f"{network}.{name}" for name, _ in student.get_submodule(network).named_parameters()]
            layer = names[-1].rpartition(".")[0]
            last += [name for name in names if name.rpartition(".")[0] == layer]
        return tuple(last)

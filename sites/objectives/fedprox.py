"""FedProx: a round's weights are kept near the student at its start (arXiv 1812.06127)."""

from collections.abc import Mapping

import torch

from fedserdiff.diffusion.refiner import Student
from fedserdiff.methods.fedprox import FedProxSettings
from sites.objectives.base import Objective


class FedProxObjective(Objective):
    """L = L_seg + (μ / 2) · ‖θ − θ*‖², with θ* the student at the start of the round. With μ = 0 it is L_seg."""

    _anchor: Mapping[str, torch.Tensor] | None = None

    def received(self, student: Student) -> None:
        """Keep the weights at the start of the round."""
        if FedProxSettings.of(self.config.method).mu > 0:
            self._anchor = {name: weight.detach().clone() for name, weight in student.named_parameters()}

    def penalties(self, network: str, student: Student) -> dict[str, torch.Tensor]:
        """Return ``proximity``, the weighted penalty on the change of a network's weights."""
        if self._anchor is None:
            return {}
        moved = [
            (weight - self._anchor[name]).square().sum()
            for name, weight in student.named_parameters()
            if name.startswith(f"{network}.")
        ]
        return {"proximity": FedProxSettings.of(self.config.method).mu / 2 * torch.stack(moved).sum()}

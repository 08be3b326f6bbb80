"""SCAFFOLD: a hospital's gradients are corrected by its drift from all hospitals together (arXiv 1910.06378)."""

from collections.abc import Mapping

import torch

from fedserdiff.diffusion.refiner import Student
from fedserdiff.methods.scaffold import ScaffoldSettings
from fedserdiff.wire import CONTROL, Memory
from sites.objectives.base import Objective


class ScaffoldObjective(Objective):
    """L = L_seg; each step's gradient g becomes g − cᵢ + c before Adam takes it.

    c is the coordinator's control variate and cᵢ the hospital's, which it keeps. The next cᵢ is the mean of the
    hospital's gradients g over the round's steps. With gradient descent that is the paper's option II, cᵢ − c + (x −
    yᵢ) / (K η), because yᵢ moves by η (g − cᵢ + c) in each step. Adam's steps are not multiples of gradients, but the
    mean of gradients is still defined. In a hospital's first round cᵢ is 0, as in the paper.
    """

    corrects = True

    @staticmethod
    def kept_of(student: Student) -> Mapping[str, torch.Tensor]:
        """Return a tensor for each weight."""
        return dict(student.named_parameters())

    def received(self, student: Student) -> None:
        """Compute c − cᵢ for the round, and reset the sums of gradients."""
        nothing = {name: torch.zeros_like(weight) for name, weight in student.named_parameters()}
        self._before = {name: self.own.get(name, none).to(none.device) for name, none in nothing.items()}
        share = ScaffoldSettings.of(self.config.method).correction
        control = self.memory.get(CONTROL, {}) if share > 0 else {}
        self._drift = {n: share * (c.to(self._before[n].device) - self._before[n]) for n, c in control.items()}
        self._sums = {name: none.clone() for name, none in nothing.items()}
        self._steps = {"coarse": 0, "refiner": 0}

    def correct(self, network: str, student: Student) -> None:
        """Add a step's gradients to the round's sum, and add c − cᵢ to the gradients."""
        self._steps[network] += 1
        for name, weight in student.named_parameters():
            if weight.grad is None or not name.startswith(f"{network}."):
                continue
            self._sums[name] += weight.grad.nan_to_num(0, 0, 0)  # fp16 sometimes overflows; Adam skips those steps
            if self._drift:
                weight.grad += self._drift[name]

    def hand_over(self) -> Memory:
        """Return the change of the hospital's control variate, and keep the new one."""
        steps = {name: max(self._steps[name.partition(".")[0]], 1) for name in self._sums}
        self.own = {name: total / steps[name] for name, total in self._sums.items()}
        return {CONTROL: {name: value - self._before[name] for name, value in self.own.items()}}

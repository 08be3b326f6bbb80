"""The cost of differentially private training (DP-SGD, with Opacus) for a hospital: Dice and ε by noise."""

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.table import Table
from torch import nn
from torch.func import functional_call, grad, vmap

from fedserdiff.commands.common import clear_errors
from fedserdiff.data.cache import CachedCase
from fedserdiff.data.phantom.generate import write_phantom_hospital
from fedserdiff.diffusion.draws import draw
from fedserdiff.diffusion.losses import dice_bce_with_logits, refined_loss
from fedserdiff.diffusion.refiner import Student, drop_context, new_student, perturb_boundary
from fedserdiff.diffusion.schedule import add_noise
from fedserdiff.errors import ConfigError
from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.experiments.opened_federation import Cache
from fedserdiff.federation import phantom_federation
from fedserdiff.files import write_whole
from fedserdiff.report.console import open_console, print_table
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.sources import make_settings
from fedserdiff.threads import use_cpus
from sites.evaluation import score_case
from sites.hospital import open_hospital
from sites.step import rate_at, set_rates
from sites.training_set import TrainingSet

from benchmarks.machine import machine

_DELTA = 1e-4  # about 0.1 divided by a hospital's number of slices
_OTHERS_SEED, _OTHERS = 1000, 12  # patients of the same scanner, used neither in training nor to test any study

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Gradients = Mapping[str, torch.Tensor]
"""One gradient per item, by weight name: shape (B, *weight)."""


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="JSON file for the result.")],
    noises: Annotated[str, typer.Option(help="Noise multipliers, separated by commas; 0 only clips.")] = "0,0.5,1",
    clip: Annotated[float, typer.Option(min=0, help="L2 norm to which each slice's gradient is clipped.")] = 0.1,
    batch: Annotated[int, typer.Option(min=2, help="Mean number of slices per step.")] = 64,
    profile: Annotated[str, typer.Option(help="Profile of networks, steps and phantoms.")] = "laptop",
) -> None:
    """Train phantom site 1's first stage by DP-SGD at each noise level, and score it on unseen patients."""
    console = open_console()
    with clear_errors("nothing: the result is written at the end"):
        try:
            multipliers = [float(text) for text in noises.split(",")]
        except ValueError:
            raise ConfigError(f"--noises: {noises!r} is not a list of numbers separated by commas") from None
        config = make_settings(profile, {"network.precision": "fp32", "data.phantom_stream": "contrast"})
        use_cpus(1)
        site = phantom_federation(1, config, Cache().phantoms)[0]
        training_set = TrainingSet(open_hospital(site, config, Cache().prepared).training, config, torch.device("cpu"))
        others = _others(config)
        rows = []
        for noise in multipliers:
            with console.status(f"noise {noise:g}"):
                rows.append(_row(training_set, others, config, noise, clip, batch))
        data = f"phantom, site 1, {_OTHERS} others of its scanner (seed {_OTHERS_SEED})"
        report = {
            "data": data, "seed": config.seed,
            "items": len(training_set), "delta": _DELTA, "unit": "one slice", "clip": clip, "batch": batch,
            "steps": config.training.steps_per_stage, "rows": rows, "config": config.to_dict(), "machine": machine(1),
        }  # fmt: skip
        write_whole(out, lambda opened: opened.write((json.dumps(report, indent=2) + "\n").encode()))
    table = Table("noise", "ε of a slice", "coarse Dice %", "refined Dice %", "CPU s", title=f"DP-SGD: {data}")
    for row in rows:
        told = (row["noise"], row["epsilon"] or "–", row["coarse"], row["refined"], row["cpu_s"])
        table.add_row(*(value if isinstance(value, str) else f"{value:.1f}" for value in told))
    print_table(console, table)


def _others(config: Settings) -> Sequence[CachedCase]:
    site = phantom_federation(1, config, Cache().phantoms)[0]
    data = config.data
    folder = write_phantom_hospital(Cache().phantoms, data.phantom_stream, 0, _OTHERS, data.spacing_mm, _OTHERS_SEED)
    strange = replace(site, path=str(folder.resolve()), cases=(), test_cases=(), validation_cases=())
    return open_hospital(strange, config, Cache().prepared).cases


def _row(
    training_set: TrainingSet,
    others: Sequence[CachedCase],
    config: Settings,
    noise: float,
    clip: float,
    batch: int,
) -> dict[str, Any]:
    started = time.process_time()
    student, epsilon = train_privately(training_set, config, noise, clip, batch)
    spent = time.process_time() - started
    scores = [score_case(student, cached, config) for cached in others]
    dice = {
        mask: 100 * sum(mean_over_regions(one, mask, "dice") for one in scores) / len(scores)
        for mask in ("coarse", "refined")
    }
    return {"noise": noise, "epsilon": epsilon, **dice, "cpu_s": spent}


def train_privately(
    training_set: TrainingSet, config: Settings, noise: float, clip: float, batch: int
) -> tuple[Student, float | None]:
    """Return a student trained for a stage by DP-SGD, and its ε at δ = 1e-4 for one slice (None without noise).

    Each step samples every slice independently. Slices with tumour have a higher probability, so that they make up
    about half of a batch, as elsewhere; ε is computed with the higher one. A slice's gradient is clipped over both
    networks together, because both use the same sample of slices, which protects two releases less than one.
    """
    try:
        from opacus.accountants import RDPAccountant
        from opacus.optimizers import DPOptimizer
    except ImportError:
        raise ConfigError("DP-SGD needs Opacus: pip install -e '.[benchmark]'") from None
    student = new_student(config)
    draws = generator(config.seed, "dp-sgd")
    rates = _rates(training_set, batch)
    weights = dict(student.named_parameters())
    for weight in weights.values():
        weight.grad_sample = None  # type: ignore[attr-defined]  # Opacus' attribute, unknown to torch
    optimizer = DPOptimizer(
        torch.optim.Adam(weights.values(), lr=config.training.learning_rate),
        noise_multiplier=noise, max_grad_norm=clip,
        expected_batch_size=batch, generator=torch.Generator().manual_seed(draws.initial_seed()),
    )  # fmt: skip
    steps = config.training.steps_per_stage
    for step in range(steps):
        drawn = training_set.batch(torch.nonzero(torch.rand(len(training_set), generator=draws) < rates)[:, 0])
        if torch.rand(1, generator=draws) < 0.5:
            drawn = drawn.mirror()
        found = gradients(student, drawn.image, drawn.truth, step % 2 == 1, draws)
        set_rates(optimizer.original_optimizer, [config.training.learning_rate], rate_at(step, steps))
        for name, weight in weights.items():
            weight.grad_sample = found[name]  # type: ignore[attr-defined]  # Opacus' own name, as above
        optimizer.step()
        optimizer.zero_grad()
    if noise == 0:
        return student.eval(), None
    accountant = RDPAccountant()
    accountant.history = [(noise, float(rates.max()), steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the best order is the last one tried: ε is an upper bound
        return student.eval(), float(accountant.get_epsilon(delta=_DELTA))


def _rates(training_set: TrainingSet, batch: int) -> torch.Tensor:
    """Return each item's sampling probability: half of the batch from all items, half from those with tumour."""
    everything = training_set.batch(torch.arange(len(training_set))).truth
    shows = everything.flatten(1).any(1)
    return (batch / 2 / len(shows) + shows * batch / 2 / max(int(shows.sum()), 1)).clamp(max=1)


def gradients(
    student: Student, image: torch.Tensor, truth: torch.Tensor, perturb: bool, noise: torch.Generator
) -> Gradients:
    """Return the gradient of each item's L_seg for each weight of the student.

    The loss is of each item alone, including Dice, which elsewhere is over the whole batch, because the influence of a
    slice must be bounded. Opacus' hooks miss a convolution that is called as a function, such as the first one, so
    `torch.func` is used.
    """

    def of_coarse(weights: Gradients, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = functional_call(student.coarse, dict(weights), (x[None], torch.zeros(1)))
        return dice_bce_with_logits(logits, y[None]), torch.sigmoid(logits[0].detach())

    def of_refiner(
        weights: Gradients, noisy: torch.Tensor, t: torch.Tensor, context: torch.Tensor, seen: torch.Tensor,
        y: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        given = torch.cat([noisy, context])[None]
        correction = functional_call(student.refiner, dict(weights), (given, t[None]))
        return refined_loss(correction, seen[None], y[None]) + F.mse_loss(torch.tanh(correction[0]), y - seen)

    each: Callable[..., Any] = vmap(grad(of_coarse, has_aux=True), in_dims=(None, 0, 0))
    found, coarse = each(_weights(student.coarse), image, truth)
    draws = draw(truth.shape, student.drop_rates, perturb, noise)
    seen = coarse if draws.bumps is None else perturb_boundary(coarse, draws.bumps)
    noisy = add_noise(truth - seen, draws.noise, draws.t)
    context = drop_context(student.context(image, seen), seen.shape[1], draws.keep)
    each = vmap(grad(of_refiner), in_dims=(None, 0, 0, 0, 0, 0))
    of_both = {"coarse": found, "refiner": each(_weights(student.refiner), noisy, draws.t, context, seen, truth)}
    return {f"{network}.{name}": part for network, parts in of_both.items() for name, part in parts.items()}


def _weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in network.named_parameters()}


if __name__ == "__main__":
    app()

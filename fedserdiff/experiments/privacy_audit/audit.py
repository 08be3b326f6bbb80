"""Privacy audit of a finished run: ``fedserdiff audit privacy``."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import TaskID

from fedserdiff.data.cache import CachedCase
from fedserdiff.data.phantom.generate import write_phantom_hospital
from fedserdiff.device import unusable_gpu, use_device, why_no_gpu
from fedserdiff.diffusion.refiner import Student, new_student
from fedserdiff.errors import ConfigError
from fedserdiff.experiment_file import PHANTOM
from fedserdiff.experiments.opened_federation import Cache, Federation, reopen
from fedserdiff.experiments.privacy_audit.attacks import (
    Finding,
    attack_canaries,
    attack_images,
    attack_maps,
    attack_weights,
    control_maps,
    control_weights,
)
from fedserdiff.experiments.privacy_audit.lesion_moments import attack_moments, control_moments
from fedserdiff.experiments.privacy_audit.models import Target, train_shadows
from fedserdiff.experiments.privacy_audit.report import for_terminal, study_of, write_study
from fedserdiff.experiments.privacy_audit.updates import attack_updates, control_updates
from fedserdiff.methods import get_method
from fedserdiff.model_file import load_student
from fedserdiff.report.console import Bars, warn
from fedserdiff.report.tables import print_study
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.training import UNVALIDATED
from fedserdiff.threads import use_cpus
from sites.adapters import load_adapter
from sites.hospital import open_hospital
from strategies.run_directory import RunDirectory

_STRANGERS = 4  # untrained patients of each phantom scanner, as a multiple of the training cases
_STRANGERS_SEED = 5000  # plus the run's seed: different from any run's patients


def audit_privacy(console: Console, run: Path, shadows: int, cache: Cache) -> None:
    """Attack what a run's hospitals sent, print the findings, and write ``privacy.json``, ``.csv`` and ``.html``.

    Raises
    ------
    ConfigError
        If the run is not finished, was trained on patches, or has stages with several hospitals.
    """
    _tell_device(console, RunDirectory(run).read_origin().config)
    federation = reopen(console, RunDirectory(run), cache)
    config = federation.config
    _check(run, config)
    use_cpus(config.machine.cpus_per_site)
    with Bars(console) as bars:
        bar = bars.add_task("preparing", total=None)
        found: list[Finding] = []
        for stage in range(1, len(config.sites) + 1):
            site = config.sites[stage - 1].name
            target = _target(run, federation, stage, cache)
            for attack in _attacks(run, target, shadows, config, partial(_tell, bars, bar, site)):
                found.extend(attack)
            console.print(f"  {site}: attacked")
    study = study_of(found, federation, shadows)
    write_study(run, "privacy", study, {"findings": [asdict(one) for one in found]})
    print_study(console, for_terminal(study))
    console.print(f"All {len(study['rows'])} findings: {run / 'privacy.html'}", soft_wrap=True)


def _tell_device(console: Console, config: Settings) -> None:
    """Warn if the attacks run without a GPU although the run used one."""
    lacking = why_no_gpu() if config.machine.gpus_per_site > 0 and not torch.cuda.is_available() else None
    unusable = f"the run had a GPU, but {lacking}" if lacking else unusable_gpu()
    if unusable is not None:
        warn(console, f"{unusable}: the attacks run on the CPU")


def _tell(bars: Bars, bar: TaskID, site: str, what: str) -> None:
    bars.update(bar, description=f"{site}: {what}")


def _check(run: Path, config: Settings) -> None:
    """Check that the run is finished, that each stage has one hospital, and that the attacks apply to it."""
    one_each = config.arrival == "in-turn" and config.training.participation == "arriving"
    if not one_each or config.stages or config.method.name == "pooled":
        raise ConfigError(
            f"{run}: has stages with several hospitals, so an audit cannot attribute leaks to one of them"
        )
    if config.training.patch:
        raise ConfigError(
            f"{run}: was trained on patches (training.patch). The attacks compare what left with whole slices or "
            "volumes and would miss patches at other positions"
        )
    missing = [
        f"student-of-stage-{stage}.pt"
        for stage in range(1, len(config.sites) + 1)
        if not (run / f"student-of-stage-{stage}.pt").is_file()
    ]
    if missing:
        raise ConfigError(
            f"{run}: has no {', '.join(missing)}: it is unfinished or from an earlier version; run it again"
        )


def _target(run: Path, federation: Federation, stage: int, cache: Cache) -> Target:
    config, hospital = federation.config, federation.hospitals[stage - 1]
    federated = get_method(config.method.name).federated
    adapter = load_adapter(run / "hospitals" / hospital.site.name, config, hospital.site.name, (stage + 1, 0))
    return Target(
        hospital=hospital,
        strangers=_strangers(config, stage, len(hospital.training), cache) if federation.data == PHANTOM else (),
        stage=stage,
        before=_student(run, config, stage - 1 if federated else 0),
        student=_student(run, config, stage),
        adapter=None if adapter is None else adapter.to(use_device(config.machine)),
    )


def _student(run: Path, config: Settings, stage: int) -> Student:
    student = new_student(config) if stage == 0 else load_student(config, run / f"student-of-stage-{stage}.pt")
    return student.to(use_device(config.machine)).eval()


def _strangers(config: Settings, stage: int, members: int, cache: Cache) -> Sequence[CachedCase]:
    """Return further patients of a phantom hospital's scanner and population."""
    site = config.sites[stage - 1]
    seed = _STRANGERS_SEED + config.seed
    folder = write_phantom_hospital(
        cache.phantoms, config.data.phantom_stream, stage - 1, _STRANGERS * members, config.data.spacing_mm, seed
    )
    strange = replace(site, path=str(folder.resolve()), cases=(), test_cases=(), validation_cases=())
    config = config.replace({"scoring.patients": "test", **UNVALIDATED})  # strangers need no split
    found = open_hospital(strange, config, cache.prepared).cases
    # All phantom hospitals use the same patient numbers.
    return [replace(c, case=replace(c.case, patient=f"stranger {c.case.patient}")) for c in found]


def _attacks(
    run: Path, target: Target, shadows: int, config: Settings, told: Callable[[str], None]
) -> Iterator[Iterator[Finding]]:
    """Yield the attacks on a stage and report each; canaries, images and their controls are only for the first stage.

    Updates are attacked in the last stage, which begins with the student that has learned most.
    """
    last = len(config.sites)
    final = _student(run, config, last) if get_method(config.method.name).federated and target.stage < last else None
    trained = train_shadows(target, shadows, config, lambda done: told(f"shadow model {done} of {shadows} trained"))
    told("error maps")
    yield attack_maps(target, trained, config)
    told("lesion moments")
    yield attack_moments(target, config)
    told("weights")
    yield attack_weights(target, final, trained, config)
    if target.stage == 1:
        told("synthetic images")
        yield attack_images(target, config)
        told("canaries")
        yield attack_canaries(target, trained, config)
        told("controls")
        yield control_maps(target, trained, config)
        yield control_weights(target, trained, config)
        yield control_moments(target, config)
    if target.stage == last:
        told("updates")
        yield attack_updates(target, config)
        yield control_updates(target, config)

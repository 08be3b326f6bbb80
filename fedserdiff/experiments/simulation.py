"""A whole simulated run: coordinator and hospitals on Flower's simulation engine, on this machine."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fedserdiff.comparison.summary import RAW_SCANS
from fedserdiff.data.cache import CachedCase
from fedserdiff.data.cases import SkippedCase
from fedserdiff.device import use_device
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Student
from fedserdiff.errors import ConfigError
from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.experiments.final_student import final_student
from fedserdiff.experiments.opened_federation import Federation, scans_of
from fedserdiff.experiments.unknown_origin import depends_on_origin, score_unknown_origin
from fedserdiff.launch import Resources, simulate
from fedserdiff.methods import get_method
from fedserdiff.model_file import load_student
from fedserdiff.origin import Origin, installed_versions
from fedserdiff.report.bad_cases import SKIPPED, bad_cases_csv
from fedserdiff.report.events import RunEvents
from fedserdiff.report.examples import Example
from fedserdiff.report.wording import in_capitals
from fedserdiff.settings.experiment import Settings
from fedserdiff.threads import use_cpus
from sites.client_app import Premises, make_client_app
from sites.evaluation import predict_case, score_prediction
from sites.hospital import Hospital
from sites.ledger import LEDGER_FILE
from sites.training import make_objective
from strategies.evaluation_plan import evaluated_sites
from strategies.first_stage import FirstStage
from strategies.run_directory import FLOWER_LOG, RunDirectory
from strategies.server_app import make_server_app
from strategies.stream import make_stream

_SHOWN = "flair"  # it shows the whole glioma; other datasets show their first modality
_AROUND = "start and stop of Flower and Ray"
_RECOGNISING = "scans of unknown origin"


def run_simulation(
    federation: Federation,
    run: RunDirectory,
    cache: Path,
    events: RunEvents,
    ray_address: str | None = None,
    ray_cpus: int | None = None,
    first_stage: Path | None = None,
    only_first: bool = False,
) -> dict[str, Any]:
    """Run or resume the experiment on Flower and Ray; return the contents of its ``results.json``.

    `first_stage` is the directory of a run that ended after stage 1 (`only_first`), to continue from.
    """
    config = federation.config
    started = time.time()
    before = run.read_seconds()
    around = before.pop(_AROUND, 0.0)
    before.pop(_RECOGNISING, None)  # done again
    overlap, skipped = federation.overlap_of(config), federation.skipped_of(config)
    scans = scans_of(federation.hospitals)
    shared = None if first_stage is None else FirstStage.load(first_stage, config, scans)
    going_on = run.begun
    if first_stage is not None and not going_on:  # each hospital's scores of rows 0 and 1
        _hand_over(first_stage / "hospitals", run.hospitals)
    # Also for a resumed run: the paths of its scans and its machine may have changed.
    made_of = Origin(
        config, installed_versions(config), federation.data, overlap, scans, skipped, show_cases=federation.show_cases
    )
    run.write_config(config, made_of.provenance)
    if skipped:
        run.write_file(SKIPPED, bad_cases_csv([row for case in skipped for row in SkippedCase(**case).rows]))
    else:  # an earlier failed start may have left one
        (run.path / SKIPPED).unlink(missing_ok=True)
    try:
        simulate(
            make_server_app(config, run, events, federation.case_counts, shared, only_first),
            make_client_app(config, Premises(cache.resolve(), run.hospitals.resolve())),
            sites=len(config.sites),
            resources=Resources(config.machine.cpus_per_site, config.machine.gpus_per_site, ray_address, ray_cpus),
            log_file=run.path / FLOWER_LOG,
            timeout_s=config.machine.stage_timeout_s,
        )
    except ConfigError:
        if not going_on and not run.can_go_on:  # Ray refused: the run never began
            shutil.rmtree(run.path)
        raise
    results: dict[str, Any] = json.loads((run.path / "results.json").read_text())
    already = sum(before.values()) + (0 if shared is None else sum(shared.seconds.values()))
    in_stream = sum(results["seconds"].values()) - already
    results["seconds"][_AROUND] = around + max(0.0, time.time() - started - in_stream)
    for site, size in _raw_bytes(federation).items():
        results["bytes_out"][site][RAW_SCANS] = size
    results["raw_nifti_bytes"] = {hospital.site.name: _on_disk(hospital.cases) for hospital in federation.hospitals}
    results |= {"overlap": overlap, "skipped": skipped}
    departed = [one["site"] for one in results["departures"] if one["returns"] is None]
    if not only_first and depends_on_origin(federation, departed):
        begun = time.time()
        events.unknown_origin_started()
        results["unknown_origin"] = score_unknown_origin(federation, run, departed)
        results["seconds"][_RECOGNISING] = time.time() - begun
    run.write_json("results.json", results)
    return results


def _hand_over(kept: Path, hospitals: Path) -> None:
    """Copy what each hospital kept in the run of the shared stage 1, except its log and its ledger."""
    for file in kept.rglob("*"):
        if file.is_file() and file.name not in ("hospital.log", LEDGER_FILE):
            target = hospitals / file.relative_to(kept)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            with contextlib.suppress(OSError):  # not every file system keeps permissions
                shutil.copymode(file, target)


def _raw_bytes(federation: Federation) -> dict[str, int]:
    """Return, by site, the bytes of scans that a method trains on elsewhere and that would have to leave the site.

    A method that respects privacy has none. A simulation opens another site's folder, so no message carries them.
    """
    config = federation.config
    by_site = {hospital.site: hospital for hospital in federation.hospitals}
    names = {hospital.site.name: hospital for hospital in federation.hospitals}
    objective = make_objective(config, [None] * len(get_method(config.method.name).parts))
    abroad = set()
    for stage, plan in enumerate(make_stream(config).stages([site.name for site in config.sites]), 1):
        for participant in plan.participants:
            hospital = names[participant]
            own = () if plan.pools else hospital.training  # pooled scans have all left their hospital
            cases = {c.case for c in objective.training_cases(hospital, stage, by_site.__getitem__)}
            abroad |= cases - {c.case for c in own}
    sizes = {name: _on_disk([c for c in h.training if c.case in abroad]) for name, h in names.items()}
    return {name: size for name, size in sizes.items() if size}


def _on_disk(cases: Iterable[CachedCase]) -> int:
    """Return the bytes of cases' scans and segmentations as stored on disk, compressed or not."""
    return sum(file.stat().st_size for cached in cases for file in cached.case.files)


def examples(federation: Federation, run: RunDirectory) -> list[Example]:
    """Return the outputs of the final student and the teacher on the first scored case of every evaluated site."""
    config = federation.config
    use_cpus(config.machine.cpus_per_site)
    device = use_device(config.machine)
    taught = run.path / "teacher.pt"
    teacher = load_student(config, taught).to(device) if taught.exists() else None
    shown = []
    for hospital in [h for h in federation.hospitals if h.site.name in evaluated_sites(config)]:
        student, adapter = final_student(run, config, hospital.site.name, device)
        shown.append(_example(hospital, student, teacher, config, adapter))
    return shown


def _example(
    hospital: Hospital,
    student: Student,
    teacher: Student | None,
    config: Settings,
    adapter: SiteAdapter | None,
) -> Example:
    """Return an example of the first of a site's scored cases."""
    cached = min(hospital.scored(config), key=lambda c: c.case.name)
    prepared, convention = cached.prepared, cached.case.convention
    own = predict_case(student, cached, config, adapter)
    scores = score_prediction(own, cached)
    modality = _SHOWN if _SHOWN in config.data.modalities else config.data.modalities[0]
    taught = None if teacher is None else predict_case(teacher, cached, config, adapter)
    return Example(
        site=hospital.site.name,
        case=cached.case.name,
        modality=in_capitals(modality),
        regions=tuple(map(in_capitals, config.data.regions)),
        spacing_mm=prepared.geometry.grid_spacing_mm,
        image=np.array(prepared.image[config.data.modalities.index(modality)]),
        truth=np.array(prepared.mask, bool),
        coarse=convention.written(own.coarse.numpy()),
        refined=convention.written(own.refined.numpy()),
        error_map=own.error_map.numpy().astype(np.float16),
        teacher_error_map=None if taught is None else taught.error_map.numpy().astype(np.float16),
        dice={mask: mean_over_regions(scores, mask, "dice") for mask in ("coarse", "refined")},
    )

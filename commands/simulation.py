"""A whole simulated run: hospitals opened on this machine, both halves of the experiment joined on Flower's engine."""

import contextlib
import hashlib
import json
import pkgutil
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from commands.common import progress_bars
from fedserdiff.comparison.summary import RAW_SCANS
from fedserdiff.config import ExperimentConfig, Site
from fedserdiff.data.cache import CachedCase
from fedserdiff.data.cases import SkippedCase
from fedserdiff.data.name_mapping import read_name_mapping
from fedserdiff.data.overlap import Overlap, find_overlap, overlap_record
from fedserdiff.data.site_cases import passed_over_note
from fedserdiff.device import use_device
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Student
from fedserdiff.errors import BadCasesError, ConfigError, DataError
from fedserdiff.evaluation.summary import mean_over_regions
from fedserdiff.federation import channels_of, name_mapping_of, phantom_federation, read_federation
from fedserdiff.launch import Resources, simulate
from fedserdiff.methods import get_method
from fedserdiff.model_file import load_student
from fedserdiff.origin import Scans
from fedserdiff.report.events import RunEvents
from fedserdiff.report.examples import Example
from fedserdiff.report.labels import in_capitals
from fedserdiff.report.overlap import skipped_notes
from fedserdiff.text import readable
from fedserdiff.threads import use_cpus
from sites.adapters import load_adapter
from sites.client_app import Premises, make_client_app
from sites.evaluation import predict_case, score_prediction
from sites.hospital import Hospital, hospital_of, open_hospital, remaining
from sites.ledger import LEDGER_FILE
from sites.objectives.base import Objective
from strategies.base import make_strategy
from strategies.evaluation_plan import evaluated_sites
from strategies.first_stage import FirstStage
from strategies.run_directory import FLOWER_LOG, RunDirectory
from strategies.server_app import make_server_app

CACHE = Path("cache")
"""Phantom scans and prepared cases, in the working directory; safe to delete."""

CASES = CACHE / "cases"
"""Prepared cases."""

PHANTOM = "phantom"
"""What results say of data that are phantoms."""


_SHOWN = "flair"  # which shows the whole of a glioma; of other datasets their first modality
_AROUND = "start and stop of Flower and Ray"


@dataclass(frozen=True)
class Federation:
    """Hospitals of a simulation, checked: `config` names exactly their cases.

    `overlaps` are cases of patients who are there already: left out, or kept where `config` allows it. `same_patient`
    is the person by patient id, of a name mapping. `data` says in words whose scans these are. `before` is the
    ``overlap`` of a run that goes on: its config names only cases that were not left out. `skipped` are cases that
    cannot be used. `show_cases` is whether somebody asked for pictures of cases.
    """

    config: ExperimentConfig
    hospitals: tuple[Hospital, ...]
    overlaps: tuple[Overlap, ...]
    same_patient: Mapping[str, str] = field(default_factory=dict)
    data: str = PHANTOM
    before: Mapping[str, Any] | None = None
    skipped: tuple[SkippedCase, ...] = ()
    show_cases: bool = False

    @property
    def shows_cases(self) -> bool:
        """Whether files may show a case: phantoms always, patients where somebody asked for it.

        All that draws cases of its own accord asks here first.
        """
        return self.show_cases or self.data == PHANTOM

    def scans_of(self, config: ExperimentConfig) -> Scans:
        """Return what stands for the scans of a config on these hospitals; its sites may name fewer of their cases."""
        opened = {hospital.site.name: hospital for hospital in self.hospitals}
        return scans_of(
            hospital_of(site, [c for c in opened[site.name].cases if c.case.name in set(site.cases)], config)
            for site in config.sites
        )

    @property
    def cases(self) -> dict[str, dict[str, int]]:
        """Exact case counts by site."""
        return {h.site.name: {"training": len(h.training), "test": len(h.test)} for h in self.hospitals}

    def overlap_of(self, config: ExperimentConfig) -> dict[str, Any]:
        """Return the ``overlap`` of the ``results.json`` of a run on this federation, or on a part of its cases."""
        if self.before is not None:
            return dict(self.before)
        taken = {site.name: site.cases for site in config.sites}
        if not config.allow_overlap:
            return overlap_record([overlap for overlap in self.overlaps if overlap.site in taken], kept=False)
        everyone = {h.site.name: h.cases for h in self.hospitals if h.site.name in taken}
        there = {n: [c for c in cases if c.case.name in (taken[n] or c.case.name)] for n, cases in everyone.items()}
        return overlap_record(find_overlap(there, self.same_patient), kept=True)

    def skipped_of(self, config: ExperimentConfig) -> list[dict[str, Any]]:
        """Return the ``skipped`` of the ``results.json`` of a run on this federation, or on a part of its sites."""
        names = {site.name for site in config.sites}
        return [{**asdict(case), "faults": [*case.faults]} for case in self.skipped if case.site in names]


def open_federation(
    config: ExperimentConfig,
    sites: tuple[Site, ...],
    cache: Path,
    progress: Callable[[str, int, int], None] = lambda site, done, total: None,
    same_patient: Mapping[str, str] | None = None,
    skip_bad: bool = False,
) -> Federation:
    """Check and prepare every site's cases, leaving out patients that are there already unless `config` keeps them.

    Raises
    ------
    DataError
        As `open_hospital`, of all sites at once, and where a site has no case left; a `BadCasesError` where
        `skip_bad` would help.
    """
    same_patient = same_patient or {}
    found: dict[str, Hospital] = {}
    refused: list[DataError] = []
    for site in sites:
        try:
            found[site.name] = open_hospital(site, config, cache, partial(progress, site.name), skip_bad)
        except DataError as error:
            refused.append(error)
    if refused:
        kind = BadCasesError if all(isinstance(error, BadCasesError) for error in refused) else DataError
        raise kind(*(fault for error in refused for fault in error.faults))
    overlaps = find_overlap({name: hospital.cases for name, hospital in found.items()}, same_patient)
    hospitals = []
    for site in sites:
        left_out = set() if config.allow_overlap else {o.case for o in overlaps if o.site == site.name}
        named, kept = remaining(found[site.name], left_out)
        try:
            hospitals.append(hospital_of(named, kept, config))
        except DataError as error:
            gone = "; ".join(str(overlap) for overlap in overlaps if overlap.site == site.name)
            raise DataError(f"{error} (left out: {gone})") from None
    config = config.replace(sites=tuple(h.site for h in hospitals))
    skipped = tuple(case for hospital in found.values() for case in hospital.skipped)
    return Federation(config, tuple(hospitals), tuple(overlaps), same_patient, skipped=skipped)


def open_named(
    console: Console,
    config: ExperimentConfig,
    federation: Path | None,
    sites: int,
    skip_bad: bool | None = None,
    show_cases: bool = False,
) -> Federation:
    """Open the hospitals of a federation file, or else `sites` phantom ones, and tell of progress and of what is there.

    `skip_bad` leaves out cases that cannot be used; None is for a command that has no such option to advise.

    Raises
    ------
    FedSerDiffError
        As `read_federation`, `read_name_mapping`, `phantom_federation` and `open_federation`, and where a federation
        file is called as phantoms' data are.
    """
    if federation is not None and federation.name == PHANTOM:
        raise ConfigError(f"{federation}: {PHANTOM} is what phantoms' data are called: give the file another name")
    with progress_bars(console) as show:
        if federation is None:
            same_patient: dict[str, str] = {}
            named = phantom_federation(
                sites, config, CACHE / "phantom", lambda s, d, t: show(f"scanning phantoms of {s}", d, t)
            )
        else:
            named, same_patient = read_federation(federation), same_patient_of(federation)
            config = config.replace(**channels_of(federation))
        try:
            opened = open_federation(
                config,
                named,
                CASES,
                lambda s, d, t: show(f"preparing cases of {s}", d, t),
                same_patient,
                bool(skip_bad),
            )
        except BadCasesError as error:
            advice = "" if skip_bad is None else "Mend them, or leave these cases out by --skip-bad"
            raise BadCasesError(*error.faults, advice=advice) from None
    for line in skipped_notes(opened.skipped_of(opened.config)):
        console.print(f"[yellow]{escape(line)}[/yellow]", highlight=False, soft_wrap=True)
    what = "[red]kept, which leaks:[/red]" if config.allow_overlap else "[yellow]left out[/yellow]"
    for overlap in opened.overlaps:
        console.print(f"{what} {escape(str(overlap))}")
    for hospital in opened.hospitals:
        site, counts = hospital.site, opened.cases[hospital.site.name]
        about = f"{site.name}: {site.release}, {counts['training']} training and {counts['test']} test cases"
        console.print(about)
    for note in filter(None, map(passed_over_note, named)):
        console.print(f"[yellow]{escape(note)}[/yellow]", highlight=False, soft_wrap=True)
    return replace(opened, data=PHANTOM if federation is None else readable(federation.name), show_cases=show_cases)


def reopen(console: Console, run: RunDirectory, config: ExperimentConfig | None = None) -> Federation:
    """Open the hospitals of a run, each with exactly the cases that the run took, to go on with it or to audit it.

    `config` is the run's own, on this machine: where it runs and where its sites' scans are may have changed.

    Raises
    ------
    ConfigError
        As `RunDirectory.read_origin`, and where a setting, the software or a scan is not what it was, or scans are
        not where `config` says.
    DataError
        As `open_hospital`.
    """
    origin = run.read_origin()
    config = config or origin.config
    different = origin.difference(config, origin.scans)
    if different.versions:
        made = "; ".join(different.versions)
        raise ConfigError(f"{run.path}: was begun with other versions: {made}: install those to go on")
    if different:
        raise ConfigError(f"{run.path}: belongs to another run: {different}")
    with progress_bars(console) as show:
        if origin.name == PHANTOM:  # which may have been deleted with the cache
            root = Path(config.sites[0].path).parent
            phantom_federation(len(config.sites), config, root, lambda s, d, t: show(f"scanning phantoms of {s}", d, t))
        for site in config.sites:
            if not Path(site.path).is_dir():
                raise ConfigError(
                    f"site {site.name}: {site.path}: no such directory: if its scans have moved, name where all sites' "
                    f"scans are now in a federation file, and go on by simulate --resume {run.path} --federation FILE"
                )
        hospitals = tuple(
            open_hospital(site, config, CASES, partial(show, f"preparing cases of {site.name}"))
            for site in config.sites
        )
    changed = origin.difference(config, scans_of(hospitals))
    if changed:
        raise ConfigError(f"{run.path}: {changed} since it began")
    skipped = tuple(SkippedCase(**case) for case in origin.skipped)
    return Federation(config, hospitals, (), {}, origin.name, origin.overlap, skipped, origin.show_cases)


def scans_of(hospitals: Iterable[Hospital]) -> Scans:
    """Return, by site, what stands for the content of all its scans and segmentations, and who is held out."""
    return {
        hospital.site.name: hashlib.sha256(
            "; ".join(
                " ".join(sorted(f"{c.case.name}={c.key}" for c in cases))
                for cases in (hospital.training, hospital.test)
            ).encode()
        ).hexdigest()
        for hospital in hospitals
    }


def same_patient_of(federation: Path) -> dict[str, str]:
    """Return the person by patient id of the name mapping that a federation file names; nobody where it names none.

    Raises
    ------
    ConfigError
        As `name_mapping_of` and `read_name_mapping`.
    """
    file = name_mapping_of(federation)
    return {} if file is None else read_name_mapping(file)


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
    """Run the experiment on Flower and Ray, or go on with it; return the contents of its ``results.json``.

    `first_stage` is the directory of a run that ended after stage 1 (`only_first`), to go on from.
    """
    config = federation.config
    started = time.time()
    before = run.read_seconds()
    overlap, skipped = federation.overlap_of(config), federation.skipped_of(config)
    scans = scans_of(federation.hospitals)
    shared = None if first_stage is None else FirstStage.load(first_stage, config, scans)
    going_on = run.begun
    if first_stage is not None and not going_on:  # each hospital's own scores of rows 0 and 1
        _hand_over(first_stage / "hospitals", run.hospitals)
    # Of a run that goes on, too: where its scans are, and what it runs on, may be new.
    about = {"name": federation.data, "overlap": overlap, "skipped": skipped, "scans": scans}
    run.write_config(config, {**about, "show_cases": federation.show_cases})
    try:
        simulate(
            make_server_app(config, run, events, federation.cases, shared, only_first),
            make_client_app(config, Premises(cache.resolve(), run.hospitals.resolve())),
            sites=len(config.sites),
            resources=Resources(config.cpus_per_site, config.gpus_per_site, ray_address, ray_cpus),
            log_file=run.path / FLOWER_LOG,
            timeout_s=config.stage_timeout_s,
        )
    except ConfigError:
        if not going_on and not run.can_go_on:  # Ray refused: the run never began
            shutil.rmtree(run.path)
        raise
    results: dict[str, Any] = json.loads((run.path / "results.json").read_text())
    already = sum(before.values()) - before.get(_AROUND, 0) + (0 if shared is None else sum(shared.seconds.values()))
    in_stream = sum(results["seconds"].values()) - already
    results["seconds"][_AROUND] = before.get(_AROUND, 0) + max(0.0, time.time() - started - in_stream)
    for site, size in _raw_bytes(federation).items():
        results["bytes_out"][site][RAW_SCANS] = size
    results["raw_nifti_bytes"] = {hospital.site.name: _on_disk(hospital.cases) for hospital in federation.hospitals}
    results |= {"overlap": overlap, "skipped": skipped}
    run.write_json("results.json", results)
    return results


def _hand_over(kept: Path, hospitals: Path) -> None:
    """Give each hospital what it kept in the run of the shared stage 1, but for its log and its ledger."""
    for file in kept.rglob("*"):
        if file.is_file() and file.name not in ("hospital.log", LEDGER_FILE):
            target = hospitals / file.relative_to(kept)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            with contextlib.suppress(OSError):  # not every file system keeps permissions
                shutil.copymode(file, target)


def _raw_bytes(federation: Federation) -> dict[str, int]:
    """Return, by site, the bytes of the scans that a method trains on elsewhere: what would have to leave the site.

    A method that respects privacy trains on none. A simulation only opens another site's folder, so that no message
    carries them.
    """
    config = federation.config
    by_site = {hospital.site: hospital for hospital in federation.hospitals}
    names = {hospital.site.name: hospital for hospital in federation.hospitals}
    strategy = make_strategy(config, RunEvents())
    objective: Objective = pkgutil.resolve_name(get_method(config.method).objective)(config)
    abroad = set()
    for stage, plan in enumerate(strategy.stages([site.name for site in config.sites]), 1):
        for participant in plan.participants:
            hospital = names[participant]
            own = hospital.training if plan.name in names else ()  # an imaginary hospital owns nothing
            cases = {c.case for c in objective.training_cases(hospital, stage, by_site.__getitem__)}
            abroad |= cases - {c.case for c in own}
    sizes = {name: _on_disk([c for c in h.training if c.case in abroad]) for name, h in names.items()}
    return {name: size for name, size in sizes.items() if size}


def _on_disk(cases: Iterable[CachedCase]) -> int:
    """Return the bytes of cases' scans and segmentations as the hospital has them, compressed or not."""
    return sum(file.stat().st_size for cached in cases for file in cached.case.files)


def examples(federation: Federation, run: RunDirectory) -> list[Example]:
    """Return, for the first test case of every site to evaluate, what its final student and the teacher make of it."""
    config = federation.config
    use_cpus(config.cpus_per_site)
    device = use_device(config.gpus_per_site)
    taught = run.path / "teacher.pt"
    teacher = load_student(config, taught).to(device) if taught.exists() else None
    shown = []
    for hospital in [h for h in federation.hospitals if h.site.name in evaluated_sites(config)]:
        own = run.path / f"student-{hospital.site.name}.pt"
        student = load_student(config, own if own.exists() else run.path / "student.pt").to(device)
        name = hospital.site.name
        adapter = load_adapter(run.hospitals / name, config, name, before=(len(config.sites) + 1, 0))
        shown.append(_example(hospital, student, teacher, config, None if adapter is None else adapter.to(device)))
    return shown


def _example(
    hospital: Hospital,
    student: Student,
    teacher: Student | None,
    config: ExperimentConfig,
    adapter: SiteAdapter | None,
) -> Example:
    """Show a site's first test case."""
    cached = min(hospital.test, key=lambda c: c.case.name)
    prepared, convention = cached.prepared, cached.case.convention
    own = predict_case(student, cached, config, adapter)
    scores = score_prediction(own, cached)
    modality = _SHOWN if _SHOWN in config.modalities else config.modalities[0]
    taught = None if teacher is None else predict_case(teacher, cached, config, adapter)
    return Example(
        site=hospital.site.name,
        case=cached.case.name,
        modality=in_capitals(modality),
        regions=tuple(map(in_capitals, config.regions)),
        spacing_mm=prepared.geometry.grid_spacing_mm,
        image=np.array(prepared.image[config.modalities.index(modality)]),
        truth=np.array(prepared.mask, bool),
        coarse=convention.written(own.coarse.numpy()),
        refined=convention.written(own.refined.numpy()),
        error_map=own.error_map.numpy().astype(np.float16),
        teacher_error_map=None if taught is None else taught.error_map.numpy().astype(np.float16),
        dice={mask: mean_over_regions(scores, mask, "dice") for mask in ("coarse", "refined")},
    )

"""The hospital's Flower app, which answers the coordinator's query, train and evaluate messages."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, MetricRecordValues, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from fedserdiff import wire
from fedserdiff.device import use_device, why_no_gpu
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Student
from fedserdiff.errors import ConfigError, DataError, ExperimentError, FederationError, RecordsError, WithheldError
from fedserdiff.files import write_whole
from fedserdiff.methods import get_method, half_of
from fedserdiff.model_file import load_student
from fedserdiff.report.curves import CURVES_FILE, CurvesFile
from fedserdiff.run_config import experiment_of
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.threads import use_cpus
from sites.adapters import load_adapter, save_adapter
from sites.egress import Door, GuardedApp, hospital_log, records_asked_for
from sites.evaluation import evaluate
from sites.hospital import Hospital, open_hospital
from sites.kept_rounds import KeptRounds
from sites.local_privacy import NOISE_KEY_FILE, privatised, simulated_key
from sites.overlap import hashes_to_tell, without_shared
from sites.personal import load_personal, own_weights, save_personal, withhold
from sites.secret_key import secret_key
from sites.statistics import statistics_of
from sites.training import Order, consolidate, run_round
from sites.validation import save_last

PROGRESS_FILE = "progress.json"
"""File in a hospital's folder with the progress of its training, for a live view at the hospital."""

_PROGRESS_EVERY_S = 0.5
_OWN_KEPT = 3  # files as large as the student, only for training: a coordinator goes back two rounds at most


@dataclass(frozen=True)
class Premises:
    """Folders on a hospital's own disk: `cache` for prepared cases, `records` with one folder for each site."""

    cache: Path
    records: Path


def make_client_app(config: Settings, premises: Premises, site: int | None = None) -> ClientApp:
    """Return the app of the hospital with number `site`, or of the hospital that a node's ``partition-id`` names.

    If `site` is None, a run config from ``flwr run`` overrides `config` and `premises`. A real hospital, with a `site`,
    ignores all configuration by the coordinator and uses only its own experiment.
    """

    def desk(context: Context) -> _Desk:
        if site is not None:
            return _Desk(site, config, premises, on_its_own=True)
        return _desk(config, premises, context)

    app = GuardedApp(lambda context: desk(context).door)

    def registered(handler: Callable[[Message, "_Desk"], RecordDict]) -> ClientAppCallable:
        def answer(message: Message, context: Context) -> Message:
            here = desk(context)
            use_cpus(here.config.machine.cpus_per_site)
            if here.device.type == "cpu" and here.config.machine.gpus_per_site > 0:
                _tell_of_no_gpu(here.records)
            return Message(handler(message, here), reply_to=message)

        return answer

    app.query()(registered(_introduce))
    app.query(wire.STATISTICS.partition(".")[2])(registered(_tell_statistics))
    app.train()(registered(_train))
    app.train(wire.CONSOLIDATE.partition(".")[2])(registered(_consolidate))
    app.evaluate()(registered(_evaluate))
    return app


@lru_cache(maxsize=64)
def _tell_of_no_gpu(records: Path) -> None:
    """Log once why a hospital with a GPU is slow: torch may be unable to use a GPU that Ray has."""
    hospital_log(records).warning("has a GPU by its settings, but %s; computing on the CPU", why_no_gpu())


def _desk(config: Settings, premises: Premises, context: Context) -> "_Desk":
    if context.run_config:
        config, home = experiment_of(context.run_config)
        premises = Premises(home / "cache" / "cases", home / "runs" / str(context.run_id) / "hospitals")
    number = context.node_config.get("partition-id")
    if not isinstance(number, int) or not 0 <= number < len(config.sites):
        raise ConfigError("this node is not a site of the experiment")
    return _Desk(number, config, premises)


@lru_cache(maxsize=64)
def _opened(site: Site, config: Settings, cache: Path) -> Hospital:
    return open_hospital(site, config, cache)


@dataclass(frozen=True)
class _Desk:
    """A hospital, the site with this `number`, during one message; `on_its_own` unless it is simulated."""

    number: int
    config: Settings
    premises: Premises
    on_its_own: bool = False

    @property
    def site(self) -> Site:
        return self.config.sites[self.number]

    @property
    def door(self) -> Door:
        return Door(self.records, self.config, self.number)

    @property
    def hospital(self) -> Hospital:
        return self.open(self.site)

    def open(self, site: Site) -> Hospital:
        return _opened(site, self.config, self.premises.cache)

    @property
    def records(self) -> Path:
        return self.premises.records / self.site.name

    @property
    def device(self) -> torch.device:
        return use_device(self.config.machine)

    @property
    def noise_key(self) -> bytes:
        if self.on_its_own:
            return secret_key(self.records / NOISE_KEY_FILE)
        return simulated_key(self.config, self.site.name)

    def at_work(self, message: Message) -> Hospital:
        """Return the hospital without the scans that an earlier one brought, according to the order in `message`."""
        return without_shared(self.hospital, message.content, self.config, self.records)

    def student(self, message: Message, record: str = wire.ARRAYS) -> Student:
        if record not in message.content.array_records:
            raise FederationError(f"the coordinator sent no {record}")
        student = Student(self.config)
        wire.load_weights(student, message.content.array_records[record])
        return student.to(self.device)

    def adapter(self, before: tuple[int, int]) -> SiteAdapter | None:
        """Return this hospital's own adapter from before a stage and round, if it has one by then."""
        adapter = load_adapter(self.records, self.config, self.site.name, before)
        return None if adapter is None else adapter.to(self.device)

    @property
    def kept(self) -> KeptRounds:
        """Files that the method keeps at this hospital for itself, such as a control variate."""
        return KeptRounds(self.records, "own", self.config, self.site.name)

    def own(self, student: Student, before: tuple[int, int]) -> dict[str, torch.Tensor]:
        """Return what the method kept from the stage's previous round; nothing for most methods."""
        first = get_method(self.config.method.name).parts[0]
        like = half_of(first, first.objective).kept_of(student)
        return (self.kept.load(before, like, since=(before[0], 0)) or {}) if like else {}

    def teachers(self, message: Message) -> tuple[Student | None, ...]:
        """Return the teacher of each of the method's parts, sent with this message or kept from an earlier one."""
        order = message.content.config_records.get(wire.CONFIG)
        ordered = None if order is None else order.get("teacher-stage")
        last, parts = self.config.most_stages, len(get_method(self.config.method.name).parts)
        stages = [n for n in ordered if type(n) is int and 0 <= n <= last] if isinstance(ordered, list) else []
        if not isinstance(ordered, list) or not len(stages) == len(ordered) == parts:
            raise FederationError(
                f"the coordinator ordered teacher-stage = {ordered!r}, not {parts} numbers from 0 to {last}"
            )
        files = [self._teacher_file(stage) for stage in stages]
        for stage in dict.fromkeys(stages):
            if wire.teacher_record(stage) in message.content:
                state = self.student(message, wire.teacher_record(stage)).state_dict()
                write_whole(self._teacher_file(stage), partial(torch.save, state))
                for old in {*self.records.glob("teacher-*.pt")}.difference(files):
                    old.unlink()
        return tuple(self._teacher(stage) for stage in stages)

    def _teacher_file(self, stage: int) -> Path:
        return self.records / f"teacher-{stage}.pt"

    def _teacher(self, stage: int) -> Student | None:
        """Return the teacher of a stage, or None for stage 0."""
        if stage == 0:
            return None
        file = self._teacher_file(stage)
        if not file.is_file():
            raise FederationError(
                f"the coordinator expects teacher {stage}, which this hospital never received or has lost"
            )
        try:
            teacher = load_student(self.config, file)
        except DataError as error:
            raise RecordsError(
                f"{error}. Restore the file from a backup, because the teacher is sent only once"
            ) from None
        return teacher.to(self.device).requires_grad_(False)


def _introduce(message: Message, desk: _Desk) -> RecordDict:
    """Return the site's number, its rounded case counts and, unless overlap is allowed, salted hashes of its scans."""
    asked = _of_this_experiment(message, desk)
    hospital = desk.hospital
    sides = {"training": hospital.training, desk.config.scoring.patients: hospital.scored(desk.config)}
    counts = {f"{side}-cases": _rounded(len(cases)) for side, cases in sides.items()}
    told = RecordDict({wire.SITE: MetricRecord({"site": desk.number, **counts})})
    if not desk.config.data.allow_overlap:
        # At least as many rows as scans: rounding removes at most 2 of each split. Rounded counts already imply it.
        exact = hospital.counts.values()
        rows = sum(map(_rounded, exact)) + wire.COUNTS_ROUNDED_TO * (len(exact) - 1)
        told[wire.SCANS] = hashes_to_tell(hospital, asked, desk.records, rows)
    return told


def _of_this_experiment(message: Message, desk: _Desk) -> ConfigRecord:
    """Return the content of a query, if it belongs to the experiment that this hospital takes part in."""
    asked = message.content.config_records.get(wire.CONFIG)
    if asked is None or asked.get("experiment") != desk.config.fingerprint:
        raise ExperimentError("the coordinator runs another experiment, or another version of this software")
    return asked


def _tell_statistics(message: Message, desk: _Desk) -> RecordDict:
    """Return histograms of all training patients, including those an earlier hospital brought: no order varies them."""
    _of_this_experiment(message, desk)
    if not desk.config.privacy.statistics:
        raise WithheldError("privacy.statistics is false: this hospital reports no statistics")
    told = statistics_of(desk.hospital.training, desk.config)
    return RecordDict({wire.HISTOGRAMS: ArrayRecord({name: Array(values) for name, values in told.items()})})


def _rounded(count: int) -> int:
    """Round to the nearest 5, never down to 0."""
    return max(wire.COUNTS_ROUNDED_TO, wire.COUNTS_ROUNDED_TO * round(count / wire.COUNTS_ROUNDED_TO))


def _train(message: Message, desk: _Desk) -> RecordDict:
    """Train for one round; return the change of the student and the losses or, with noise, only the change."""
    sites = len(desk.config.sites)
    student, hospital = desk.student(message), desk.at_work(message)
    stage = _ordered(message, "stage", 1, desk.config.most_stages)
    server_round = _ordered(message, "server-round", 1, desk.config.rounds)
    when = (stage, server_round)
    received = own_weights(student, desk.config)
    load_personal(student, desk.records, desk.config, desk.site.name, when)
    began = own_weights(student, desk.config)
    order = Order(
        stage=stage,
        server_round=server_round,
        # More steps than planned would memorise patients; only pooling in a simulation does several stages' work.
        length=_ordered(message, "length", 1, sites if get_method(desk.config.method.name).breaks_privacy else 1),
        teachers=desk.teachers(message),
        memory=wire.memory_of(message.content, student, desk.config),
        adapter=desk.adapter(before=when),
        own=desk.own(student, when),
    )
    progress = _ProgressFile(desk.records / PROGRESS_FILE)
    curves = CurvesFile(desk.records / CURVES_FILE, stage, server_round)
    done = run_round(student, order, hospital, desk.open, desk.config, progress, curves)
    if done.last is not None:
        save_last(desk.records, done.last)
    if done.adapter is not None:
        save_adapter(desk.records, desk.config, desk.site.name, done.adapter, when)
    if done.own:
        desk.kept.save({name: tensor.cpu() for name, tensor in done.own.items()}, when, newest=_OWN_KEPT)
    if received:
        save_personal(desk.records, desk.config, desk.site.name, withhold(student, began, received), when)
    change = wire.change_to_record(student, message.content.array_records[wire.ARRAYS])
    metrics: dict[str, MetricRecordValues] = {wire.WEIGHT: _rounded(len(hospital.training))}
    if desk.config.privacy.dp_noise > 0:
        change = privatised(change, desk.config, desk.noise_key)
    else:
        metrics |= {**{f"loss-{name}": value for name, value in done.losses.items()}, **done.retained}
    beside = wire.memory_to_records(done.handed_over)
    return RecordDict({wire.ARRAYS: change, wire.METRICS: MetricRecord(metrics), **beside})


def _consolidate(message: Message, desk: _Desk) -> RecordDict:
    """Return the records that the method keeps from a finished stage."""
    stage = _ordered(message, "stage", 1, desk.config.most_stages)
    adapter = desk.adapter(before=(stage + 1, 0))
    asked = records_asked_for(message, desk.config)
    log = hospital_log(desk.records)
    kept = consolidate(desk.student(message), stage, desk.at_work(message), desk.config, asked, adapter, log.warning)
    return RecordDict(dict(wire.memory_to_records(kept)))


def _evaluate(message: Message, desk: _Desk) -> RecordDict:
    """Score the received student on those of this hospital's cases whose scores the experiment reports."""
    stage = _ordered(message, "stage", 0, desk.config.most_stages)
    student, hospital = desk.student(message), desk.at_work(message)
    ended = (stage + 1, 0)
    load_personal(student, desk.records, desk.config, desk.site.name, ended)
    adapter = desk.adapter(before=ended)
    cases = hospital.scored(desk.config)
    scores = evaluate(student, cases, desk.config, stage, desk.records / "scores.csv", adapter, hospital.validation)
    metrics: dict[str, MetricRecordValues] = {wire.WEIGHT: _rounded(len(cases)), **scores}
    return RecordDict({wire.METRICS: MetricRecord(metrics)})


def _ordered(message: Message, name: str, least: int, most: int) -> int:
    """Return a number from the coordinator's order, if it is within the experiment's range."""
    orders = message.content.config_records.get(wire.CONFIG)
    value = None if orders is None else orders.get(name)
    if type(value) is not int or not least <= value <= most:
        raise FederationError(f"the coordinator ordered {name} = {value!r}, not a number from {least} to {most}")
    return value


class _ProgressFile:
    """Writer of training progress, at most a few times a second, for a live view on the hospital's own machine."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._last = 0.0

    def __call__(self, step: int, steps: int, terms: Callable[[], dict[str, float]]) -> None:
        now = time.monotonic()
        if now - self._last < _PROGRESS_EVERY_S and step < steps:
            return
        self._last = now
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps({"step": step, "steps": steps, "terms": terms()}))
        partial.replace(self._file)


app = make_client_app(Settings(), Premises(Path("cache"), Path("hospitals")))
"""The app that ``flwr run`` loads."""

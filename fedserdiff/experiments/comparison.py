"""The work of ``fedserdiff compare``: open the data, complete the runs, and write the results as files and a page."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from fedserdiff.comparison.records import RunRecord, load_run
from fedserdiff.comparison.sentences import one_seed
from fedserdiff.comparison.studies import FirstHospital, Study, scored_on_validation
from fedserdiff.comparison.summary import Data, compare_runs
from fedserdiff.comparison.verdicts import judge
from fedserdiff.errors import ConfigError
from fedserdiff.experiment_file import PHANTOM
from fedserdiff.experiments.opened_federation import RUNS, Cache, Federation, Hospitals, data_name, open_named, scans_of
from fedserdiff.experiments.run_pool import RunPool
from fedserdiff.experiments.simulation import examples
from fedserdiff.experiments.studies import STUDIES
from fedserdiff.files import write_whole
from fedserdiff.methods import label
from fedserdiff.origin import Scans, installed_versions, other_versions
from fedserdiff.report.overlap import leak_warning, skipped_notes
from fedserdiff.report.page import render_page
from fedserdiff.report.plots import plot_methods
from fedserdiff.report.retention import run_notes
from fedserdiff.report.volumes import VOLUMES, write_volumes
from fedserdiff.settings.experiment import Settings
from strategies.run_directory import RunDirectory

_COMPARISON, _CASES, _STUDIES = "comparison.json", "cases.png", "studies"


@dataclass(frozen=True)
class Setting:
    """The setting of a comparison: settings from `Layers.for_methods`, and where the hospitals come from.

    `skip_bad`, `show_cases` and `beside` are as in `open_named`.
    """

    config: Settings
    seeds: Sequence[int]
    federation: Hospitals
    sites: int
    console: Console
    cache: Cache
    skip_bad: bool = False
    show_cases: bool = False
    beside: Path = RUNS

    @property
    def phantom(self) -> bool:
        """Whether the hospitals are phantoms."""
        return self.federation is None

    @property
    def data(self) -> str:
        """Name of the data in tables."""
        return data_name(self.federation)

    @property
    def folder(self) -> str:
        """Name of the data in a folder name."""
        phantoms = f"{PHANTOM}-{self.config.data.phantom_stream}{self.sites}"
        name = phantoms if self.federation is None else Path(self.data).stem
        return f"{name}-allow-overlap" if self.config.data.allow_overlap else name

    def open(self) -> dict[int, Federation]:
        """Open the hospitals for each seed, since phantom patients differ between seeds; report others only once."""
        again = self.console if self.phantom else Console(quiet=True)
        return {
            seed: open_named(
                again if number else self.console,
                self.config.replace(seed=seed),
                self.federation,
                self.sites,
                self.cache,
                self.skip_bad,
                self.show_cases,
                self.beside,
            )
            for number, seed in enumerate(self.seeds)
        }


def claim(folder: Path, setting: Setting) -> None:
    """Check that a folder is empty or contains a comparison on the same data, since a page shows one stream.

    Raises
    ------
    ConfigError
        If it contains something else.
    """
    about = {"data": setting.folder, "profile": setting.config.profile}
    file = folder / "stream.json"
    if file.is_file():
        there = _read(file)
        if there != about:
            raise ConfigError(
                f"{folder}: contains a comparison on {there.get('data')}, {there.get('profile')}; give another --out"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: contains something other than a comparison; give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(file, about)


Records = dict[str, dict[int, RunRecord]]
"""Finished runs by method and seed."""


def compare_methods(
    pool: RunPool, setting: Setting, methods: Sequence[str], folder: Path
) -> tuple[dict[str, Any], Records]:
    """Complete the runs of every method and seed, and draw cases if they may be shown.

    Returns
    -------
    dict
        The contents of ``comparison.json``.
    Records
        The runs.
    """
    opened = setting.open()
    wanted = {(m, seed): f.config.replace(method=m) for m in methods for seed, f in opened.items()}
    records = _records(wanted, opened, pool.complete(_scans(wanted, opened)))
    runs: Records = {method: {seed: records[method, seed] for seed in opened} for method in methods}
    first = opened[setting.seeds[0]]
    leak = leak_warning(first.overlap_of(first.config))
    overlaps = tuple(str(overlap) for overlap in first.overlaps)
    left_out, kept = ((), overlaps) if setting.config.data.allow_overlap else (overlaps, ())
    comparison = compare_runs(runs, Data(setting.data, setting.phantom, left_out, kept, leak))
    comparison["notes"] += skipped_notes(first.skipped_of(first.config))
    told = {f"{label(m)}, seed {seed}": r.results for m, by_seed in runs.items() for seed, r in by_seed.items()}
    comparison["notes"] += run_notes(told)
    comparison = {**comparison, **_origin(opened)}
    for name in (_CASES, VOLUMES):
        (folder / name).unlink(missing_ok=True)
    if first.shows_cases:
        seed = setting.seeds[0]
        shown = {
            label(m): examples(replace(first, config=by_seed[seed].config), RunDirectory(by_seed[seed].path))
            for m, by_seed in runs.items()
        }
        about = f"{setting.data} data, seed {seed}"
        title = f"{about}, refined masks at the end of the stream"
        wrapped = {name.replace(" (", "\n("): cases for name, cases in shown.items()}
        plot_methods(wrapped, title if leak is None else f"{title}\n{leak}", folder / _CASES)
        facts = f"{about}, profile {setting.config.profile}, students at the end of the stream"
        write_volumes(shown, facts, setting.phantom, leak, folder / VOLUMES)
    return comparison, runs


def run_studies(pool: RunPool, setting: Setting, studies: Sequence[Study]) -> list[dict[str, Any]]:
    """Complete the runs of all studies' variants, scored on validation patients, and return each study's result."""
    setting = replace(setting, config=scored_on_validation(setting.config))
    scored = setting.config.scoring.patients
    opened = {
        sites: replace(setting, sites=sites).open() for sites in {max(setting.sites, study.sites) for study in studies}
    }
    plans = []
    for study in studies:
        by_seed = opened[max(setting.sites, study.sites)]
        variants = {seed: study.variants(f.config, _first(f)) for seed, f in by_seed.items()}
        names = list(variants[setting.seeds[0]])
        plans.append((study, by_seed, {(name, seed): variants[seed][name] for name in names for seed in by_seed}))
    done = pool.complete({k: v for _, by_seed, wanted in plans for k, v in _scans(wanted, by_seed).items()})
    results = []
    for study, by_seed, wanted in plans:
        records = _records(wanted, by_seed, done)
        runs = {name: {seed: records[name, seed] for seed in by_seed} for name in dict.fromkeys(n for n, _ in wanted)}
        with setting.console.status(f"{study.name}: reading finished runs"):
            described = study.describe(runs, setting.phantom)
        leak = next(filter(None, (leak_warning(record.results["overlap"]) for record in records.values())), None)
        about = _about(setting, by_seed)
        result = {
            "name": study.name,
            "title": study.title,
            "question": study.question,
            "data": about if leak is None else f"{about}, leaking into the {scored} set",
            "scored": scored,
            "leak": leak,
            **described,
            **_origin(by_seed),
        }
        if len(setting.seeds) == 1:
            result["sentences"] = [*described["sentences"], one_seed(scored)]
        results.append(result)
    return results


def write_page(folder: Path, setting: Setting, made: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write the new results and the page, which also shows the folder's earlier results if they are comparable.

    Earlier results from other scans or other versions are named and left out. Verdicts take all results on the page
    into account, so every file is written again with them.

    Returns
    -------
    list of dict
        The new results with their verdicts.
    """
    files = {folder / _COMPARISON, *(folder / _STUDIES).glob("*.json")}
    results = {_file(folder, result): result for result in made}
    for file in sorted(file for file in files - results.keys() if file.is_file()):
        earlier = _read(file)
        why = _why_not_beside(earlier, made, setting.phantom)
        if why:
            setting.console.print(f"{escape(str(file))} is kept but not shown: {escape(why)}", soft_wrap=True)
        else:
            results[file] = earlier
    results = dict(zip(results, judge(list(results.values())), strict=True))
    for file, result in results.items():
        _write_json(file, result)
    for result in made:
        rows = [result["columns"], *result["rows"]] if "columns" in result else _rows(result)
        _write_table(_file(folder, result).with_suffix(".csv"), rows)
    comparison = results.get(folder / _COMPARISON)
    cases = folder / _CASES
    picture = cases.read_bytes() if comparison is not None and cases.is_file() else None
    volumes = VOLUMES if comparison is not None and (folder / VOLUMES).is_file() else None
    studies = [results[file] for name in STUDIES if (file := folder / _STUDIES / f"{name}.json") in results]
    page = render_page(comparison, studies, picture, volumes)
    write_whole(folder / "report.html", lambda opened: opened.write(page.encode()))
    return [results[_file(folder, result)] for result in made]


def _file(folder: Path, result: Mapping[str, Any]) -> Path:
    return folder / _STUDIES / f"{result['name']}.json" if "columns" in result else folder / _COMPARISON


def _origin(opened: Mapping[int, Federation]) -> dict[str, Any]:
    """Return a result's origin in addition to its settings: software versions and, by seed, the scans of each site.

    The validation split does not count: a study may stand beside a comparison on the same scans and test patients in
    which all other patients train.
    """
    scans = {
        str(seed): dict(
            scans_of(replace(h, training=(*h.training, *h.validation), validation=()) for h in federation.hospitals)
        )
        for seed, federation in opened.items()
    }
    return {"versions": installed_versions(), "scans": scans}


def _why_not_beside(earlier: Mapping[str, Any], made: Sequence[Mapping[str, Any]], phantom: bool) -> str:
    """Return why an earlier result cannot stand on one page with the new results, or "" if it can.

    Phantom scans differ by seed, and a study may have more phantom sites, so only the common ones must be equal.
    """
    if others := other_versions(earlier.get("versions", {})):
        return "; ".join(others)
    scans = earlier.get("scans")
    if not scans or "verdicts" not in earlier or not earlier.get("scored"):
        return "it does not record its origin"
    if any("fairness" not in method for method in earlier.get("methods", ())):
        return "it does not record the worst hospital"
    changed: set[str] = set()
    for result in made:
        for seed, now in result["scans"].items():
            then = scans.get(seed, {}) if phantom else next(iter(scans.values()))
            if phantom:
                changed |= {site for site in now.keys() & then.keys() if now[site] != then[site]}
            elif list(now.items()) != list(then.items()):
                changed |= {site for site in {*now, *then} if now.get(site) != then.get(site)} or {*now}
    return f"it comes from other scans, or another order, of {', '.join(sorted(changed))}" if changed else ""


def _scans(wanted: Mapping[tuple[str, int], Settings], opened: Mapping[int, Federation]) -> dict[Settings, Scans]:
    """Return the hashes of the scans that each config's run uses."""
    return {config: opened[seed].scans_of(config) for (_, seed), config in wanted.items()}


def _records(
    wanted: Mapping[tuple[str, int], Settings],
    opened: Mapping[int, Federation],
    done: Mapping[Settings, Path],
) -> dict[tuple[str, int], RunRecord]:
    """Load the runs, and update each with the current paths of its scans and the cases left out or kept."""
    records = {}
    for (name, seed), config in wanted.items():
        record = load_run(done[config])
        record = replace(record, config=record.config.replace(sites=config.sites))
        known = {"overlap": opened[seed].overlap_of(record.config), "skipped": opened[seed].skipped_of(record.config)}
        if record.results != {**record.results, **known}:  # a run knows only its own cases and no name mapping
            record = replace(record, results={**record.results, **known})
            _write_json(record.path / "results.json", dict(record.results))
        records[name, seed] = record
    return records


def _first(federation: Federation) -> FirstHospital:
    hospital = federation.hospitals[0]
    return FirstHospital(hospital.training, hospital.validation, hospital.test)


def _about(setting: Setting, opened: dict[int, Federation]) -> str:
    scored = setting.config.scoring.patients
    cases = [sum(count[scored] for count in federation.case_counts.values()) for federation in opened.values()]
    seeds = f"seed{'s' if len(opened) > 1 else ''} {', '.join(map(str, opened))}"
    sites = len(next(iter(opened.values())).hospitals)
    counts = f"{sites} sites, {cases[0]} {scored} cases for each seed"
    return f"{setting.data} data, {counts}, {seeds}, profile {setting.config.profile}"


def _rows(comparison: Mapping[str, Any]) -> list[list[Any]]:
    """Return the rows of ``comparison.csv``, one for each method; Dice and its spread are fractions, HD95 is in mm."""
    rows = [
        {
            "method": method["name"],
            "group": method["group"],
            "breaks privacy": method["breaks_privacy"],
            "needs": "; ".join(method["needs"]),
            "leaks": comparison["data"]["leak"] is not None,
            **_ends({name.replace("_", " "): score for name, score in method["scores"].items()}),
            "worst hospital": method["fairness"]["worst_site"],
            **_ends({"worst hospital dice": method["fairness"]["worst"], "spread": method["fairness"]["spread"]}),
            **_ends({f"dice {region}": interval for region, interval in method["dice_by_region"].items()}),
            "bytes out": sum(method["bytes_out"].values()),
            "minutes": method["minutes"],
        }
        for method in comparison["methods"]
    ]
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def _ends(scores: Mapping[str, Mapping[str, float | None] | None]) -> dict[str, float | None]:
    """Return three cells for each score: its value under its name, and both ends of its interval."""
    return {
        f"{score} {end}".removesuffix(" value"): None if interval is None else interval[end]
        for score, interval in scores.items()
        for end in ("value", "low", "high")
    }


def _write_table(file: Path, rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_whole(file, lambda opened: opened.write(text.getvalue().encode()))


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text())
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: is damaged; move it away and run this again")
    return values


def _write_json(file: Path, values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_whole(file, lambda opened: opened.write(text.encode()))

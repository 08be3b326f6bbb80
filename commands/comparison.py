"""What ``compare.py`` does: open the data, have the runs done, and put what they say into files and one page."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from commands.run_pool import RunPool
from commands.simulation import Federation, examples, open_named
from commands.studies import STUDIES
from fedserdiff.comparison.records import RunRecord, load_run
from fedserdiff.comparison.studies import FirstHospital, Study
from fedserdiff.comparison.summary import ONE_SEED, Data, compare_runs
from fedserdiff.config import ExperimentConfig
from fedserdiff.errors import ConfigError
from fedserdiff.files import write_whole
from fedserdiff.methods import label
from fedserdiff.report.overlap import leak_warning, skipped_notes
from fedserdiff.report.page import render_page
from fedserdiff.report.plots import plot_methods
from fedserdiff.report.volumes import VOLUMES, write_volumes
from fedserdiff.text import readable
from strategies.run_directory import RunDirectory

_COMPARISON, _CASES, _STUDIES = "comparison.json", "cases.png", "studies"


@dataclass(frozen=True)
class Setting:
    """What is compared on: a config without method, seed and sites, and where the hospitals come from.

    `show_cases` asks for pictures of cases, as `open_named` has it.
    """

    config: ExperimentConfig
    seeds: Sequence[int]
    federation: Path | None
    sites: int
    console: Console
    skip_bad: bool = False
    show_cases: bool = False

    @property
    def phantom(self) -> bool:
        """Whether the hospitals are phantoms."""
        return self.federation is None

    @property
    def data(self) -> str:
        """What the data are called in tables."""
        return "phantom" if self.federation is None else readable(self.federation.name)

    @property
    def folder(self) -> str:
        """What the data are called in a folder's name."""
        name = f"phantom{self.sites}" if self.federation is None else readable(self.federation.stem)
        return f"{name}-allow-overlap" if self.config.allow_overlap else name

    def open(self) -> dict[int, Federation]:
        """Open the hospitals by seed: phantom patients differ from seed to seed."""
        return {
            seed: open_named(
                self.console,
                self.config.replace(seed=seed),
                self.federation,
                self.sites,
                self.skip_bad,
                self.show_cases,
            )
            for seed in self.seeds
        }


def claim(folder: Path, setting: Setting) -> None:
    """See that a folder holds nothing yet, or what was compared on the same data: one page shows one stream.

    Raises
    ------
    ConfigError
        Where it holds something else.
    """
    about = {"data": setting.folder, "profile": setting.config.profile}
    file = folder / "stream.json"
    if file.is_file():
        there = json.loads(file.read_text())
        if there != about:
            raise ConfigError(
                f"{folder}: holds a comparison on {there['data']}, {there['profile']}: give another --out"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: holds something else than a comparison: give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(file, about)


def compare_methods(pool: RunPool, setting: Setting, methods: Sequence[str], folder: Path) -> dict[str, Any]:
    """Have every method and seed run; write ``comparison.json``, ``comparison.csv`` and, if they are shown, cases."""
    opened = setting.open()
    wanted = {(m, seed): f.config.replace(method=m) for m in methods for seed, f in opened.items()}
    records = _records(pool, wanted, opened)
    runs = {method: {seed: records[method, seed] for seed in opened} for method in methods}
    first = opened[setting.seeds[0]]
    leak = leak_warning(first.overlap_of(first.config))
    overlaps = tuple(str(overlap) for overlap in first.overlaps)
    left_out, kept = ((), overlaps) if setting.config.allow_overlap else (overlaps, ())
    comparison = compare_runs(runs, Data(setting.data, setting.phantom, left_out, kept, leak))
    comparison["notes"] += skipped_notes(first.skipped_of(first.config))
    _write_json(folder / _COMPARISON, comparison)
    _write_csv(folder / "comparison.csv", comparison)
    for name in (_CASES, VOLUMES):
        (folder / name).unlink(missing_ok=True)
    if first.shows_cases:
        seed = setting.seeds[0]
        shown = {label(m): examples(first, RunDirectory(by_seed[seed].path)) for m, by_seed in runs.items()}
        about = f"{setting.data} data, seed {seed}"
        title = f"{about}, refined masks at the end of the stream"
        wrapped = {name.replace(" (", "\n("): cases for name, cases in shown.items()}
        plot_methods(wrapped, title if leak is None else f"{title}\n{leak}", folder / _CASES)
        facts = f"{about}, profile {setting.config.profile}, students at the end of the stream"
        write_volumes(shown, facts, setting.phantom, leak, folder / VOLUMES)
    return comparison


def run_studies(pool: RunPool, setting: Setting, studies: Sequence[Study], folder: Path) -> Iterator[dict[str, Any]]:
    """Have the variants of all studies run, and yield each study's table after writing it to ``studies/``."""
    opened = {
        sites: replace(setting, sites=sites).open() for sites in {max(setting.sites, study.sites) for study in studies}
    }
    plans = []
    for study in studies:
        by_seed = opened[max(setting.sites, study.sites)]
        variants = {seed: study.variants(f.config, _first(f)) for seed, f in by_seed.items()}
        names = list(variants[setting.seeds[0]])
        plans.append((study, by_seed, {(name, seed): variants[seed][name] for name in names for seed in by_seed}))
    pool.complete([config for _, _, wanted in plans for config in wanted.values()])
    (folder / _STUDIES).mkdir(exist_ok=True)
    for study, by_seed, wanted in plans:
        records = _records(pool, wanted, by_seed)
        runs = {name: {seed: records[name, seed] for seed in by_seed} for name in dict.fromkeys(n for n, _ in wanted)}
        with setting.console.status(f"{study.name}: finished runs are read"):
            described = study.describe(runs, setting.phantom)
        leak = next(filter(None, (leak_warning(record.results["overlap"]) for record in records.values())), None)
        about = _about(setting, by_seed)
        result = {
            "name": study.name,
            "title": study.title,
            "question": study.question,
            "data": about if leak is None else f"{about}, leaking into the test set",
            "leak": leak,
            **described,
        }
        if len(setting.seeds) == 1:
            result["sentences"] = [*described["sentences"], ONE_SEED]
        _write_json(folder / _STUDIES / f"{study.name}.json", result)
        _write_table(folder / _STUDIES / f"{study.name}.csv", [described["columns"], *described["rows"]])
        yield result


def write_page(folder: Path) -> None:
    """Write ``report.html``: the last comparison and every study whose results lie in the folder."""
    file = folder / _COMPARISON
    comparison = json.loads(file.read_bytes()) if file.is_file() else None
    done = {path.stem: json.loads(path.read_bytes()) for path in (folder / _STUDIES).glob("*.json")}
    cases = folder / _CASES
    picture = cases.read_bytes() if cases.is_file() else None
    volumes = VOLUMES if (folder / VOLUMES).is_file() else None
    page = render_page(comparison, [done[name] for name in STUDIES if name in done], picture, volumes)
    write_whole(folder / "report.html", lambda opened: opened.write(page.encode()))


def _records(
    pool: RunPool, wanted: dict[tuple[str, int], ExperimentConfig], opened: dict[int, Federation]
) -> dict[tuple[str, int], RunRecord]:
    """Have the runs done and load them; each is told what was left out of its cases, or kept."""
    records = {}
    for (name, seed), run in zip(wanted, pool.complete(list(wanted.values())), strict=True):
        record = load_run(run)
        known = {"overlap": opened[seed].overlap_of(record.config), "skipped": opened[seed].skipped_of(record.config)}
        if record.results != {**record.results, **known}:  # a run sees its own cases alone, and no name mapping
            record = replace(record, results={**record.results, **known})
            _write_json(run / "results.json", dict(record.results))
        records[name, seed] = record
    return records


def _first(federation: Federation) -> FirstHospital:
    hospital = federation.hospitals[0]
    return FirstHospital(hospital.training, hospital.test)


def _about(setting: Setting, opened: dict[int, Federation]) -> str:
    cases = [sum(count["test"] for count in federation.cases.values()) for federation in opened.values()]
    seeds = f"seed{'s' if len(opened) > 1 else ''} {', '.join(map(str, opened))}"
    sites = len(next(iter(opened.values())).hospitals)
    return (
        f"{setting.data} data, {sites} sites, {cases[0]} test cases a seed, {seeds}, profile {setting.config.profile}"
    )


def _write_csv(file: Path, comparison: dict[str, Any]) -> None:
    """Write one row a method; Dice as a fraction, HD95 in mm."""
    rows = [
        {
            "method": method["name"],
            "breaks privacy": method["breaks_privacy"],
            "leaks": comparison["data"]["leak"] is not None,
            **{
                f"{score} {end}".removesuffix(" value"): None if interval is None else interval[end]
                for score, interval in method["scores"].items()
                for end in ("value", "low", "high")
            },
            "bytes out": sum(method["bytes_out"].values()),
            "minutes": method["minutes"],
        }
        for method in comparison["methods"]
    ]
    _write_table(file, [list(rows[0]), *(list(row.values()) for row in rows)])


def _write_table(file: Path, rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_whole(file, lambda opened: opened.write(text.getvalue().encode()))


def _write_json(file: Path, values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_whole(file, lambda opened: opened.write(text.encode()))

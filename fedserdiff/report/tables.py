"""Tables printed at the end of a run, from its ``results.json``."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedserdiff.comparison.verdicts import said
from fedserdiff.evaluation.departures import departure_notes
from fedserdiff.methods import label, origin_note, recognition_note
from fedserdiff.report.console import print_table
from fedserdiff.report.overlap import leak_warning, left_out_note, skipped_notes
from fedserdiff.report.retention import alarms
from fedserdiff.report.wording import data_in_words, in_capitals

_SMALL = ("metrics", "scan-hashes", "site")  # a few kB; only the page shows them
_ALWAYS = ("dice", "hd95")
_MORE = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "nsd": "NSD at 1 mm",
    "lesion_dice": "lesion-wise\nDice",
}
_NAMED_COLUMNS = 6  # with more sites, columns have numbers, because names would be wider than a terminal
_MOST_COLUMNS = 12  # a terminal does not show more
_PROMISES = 20  # above this ε an attacker can be practically certain
_MOST_TIMES = 10  # with more stages, seconds are summed over stages


def print_results(console: Console, results: Mapping[str, Any], data: str) -> None:
    """Print a run's tables.

    Parameters
    ----------
    console : Console
        Console to print to.
    results : mapping
        The contents of ``results.json``.
    data : str
        Data that the scores were measured on, such as ``phantom``; shown in the first title.
    """
    _print_warnings(console, results)
    scored = results["scored"]
    counts = " + ".join(str(results["cases"][site][scored]) for site in _scored_at_end(results))
    about = f"{label(results['method'])}, seed {results['seed']}, {escape(data)} data, {counts} {scored} cases"
    print_table(console, _site_table(results, f"Final scores by site ({about})"))
    if note := _worst_note(results):
        console.print(escape(note), highlight=False)
    if len(results["R"]) > len(_ALWAYS):
        print_table(
            console,
            _more_table(results, "Other final metrics of the refined mask, %, means over regions"),
        )
    if len(results["evaluation"]["sites"]) > _MOST_COLUMNS:
        console.print(f"R has {len(results['sites'])} columns, too many to show here; see results.csv")
    else:
        print_table(console, _matrix_table(results, "R: mean Dice % on each site after each stage"))
    if note := _partial_note(results):
        console.print(escape(note), highlight=False)
    print_table(console, _stream_table(results, "Continual learning over the stream"))
    if note := _origin_note(results):
        console.print(note, highlight=False)
    print_table(console, _bytes_table(results, "Bytes that left each hospital, by kind of record"))
    console.print(f"Seconds: {_seconds(results)}")
    skipped = skipped_notes(results.get("skipped", ()))
    departures = departure_notes(results.get("departures", ()))
    for note in (left_out_note(results.get("overlap")), *skipped, *departures, _noise_note(results)):
        if note:
            console.print(escape(note), highlight=False)
    _print_warnings(console, results)


def _origin_note(results: Mapping[str, Any]) -> str | None:
    """Return a sentence on the origin of scans if the method's scores depend on it."""
    if (note := origin_note([results["method"]])) is None or (unknown := results.get("unknown_origin")) is None:
        return note
    dice, cases = unknown["dice"], sum(results["cases"][site][results["scored"]] for site in unknown["dice"])
    return (
        f"{recognition_note([results['method']])} Their mean Dice is {100 * sum(dice.values()) / len(dice):.1f} %; "
        f"{sum(unknown['recognised'].values())} of {cases} resemble their own hospital's most, and for "
        f"{sum(unknown['averaged'].values())} two are averaged. The tables assume that the hospital is known."
    )


def _worst_note(results: Mapping[str, Any]) -> str | None:
    """Return a sentence on the worst hospital if several were scored at the end."""
    if len(_scored_at_end(results)) < 2:
        return None
    of_mean = results["fairness"]["dice"]["mean"]
    return (
        f"Worst hospital: {of_mean['worst_site']}, {100 * of_mean['worst']:.1f} % mean Dice; spread over hospitals "
        f"{100 * of_mean['spread']:.1f} points (population standard deviation)"
    )


def _noise_note(results: Mapping[str, Any]) -> str | None:
    """Return a sentence on the privacy guarantee of noise on weight changes, if there is noise."""
    spent = results.get("differential_privacy")
    if spent is None:
        return None
    most = max(spent["epsilon"].values())
    return (
        f"Local differential privacy of {spent['unit']}: noise {spent['noise']:g}, clipped to {spent['clip']:g}: ε = "
        f"{most:.3g} at δ = {spent['delta']:g}{', which guarantees nothing' if most > _PROMISES else ''}"
    )


def _print_warnings(console: Console, results: Mapping[str, Any]) -> None:
    """Print warnings that limit what a run's scores mean."""
    _print_warning(console, leak_warning(results.get("overlap")))
    without = [
        f"{a['site']} in stage {a['stage']}, round {a['round']} ({a['why']})" for a in results.get("absences", ())
    ]
    _print_warning(console, f"Continued without {'; '.join(without)}" if without else None)
    for text in alarms(results.get("retention", ())):
        _print_warning(console, f"Alarm: {text}")
    for text in results.get("notes", ()):
        _print_warning(console, f"Note: {text}")


def _print_warning(console: Console, warning: str | None) -> None:
    if warning is not None:
        console.print(f"[bold red]{escape(warning)}[/bold red]", highlight=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _site_table(results: Mapping[str, Any], title: str) -> Table:
    scored = [*(key for key in results["R"]["dice"] if key != "mean"), "mean"]
    keys = [key if key == "mean" else in_capitals(key) for key in scored]
    table = _table(title, "site", "mask", *(f"Dice %\n{k}" for k in keys), *(f"HD95 mm\n{k}" for k in keys))
    for site in _scored_at_end(results):
        column = results["sites"].index(site)
        row = results["deployed"][column]
        for mask, key in (("coarse", "R_coarse"), ("refined", "R")):
            last = {m: {k: results[key][m][k][row][column] for k in scored} for m in ("dice", "hd95")}
            table.add_row(
                site,
                mask,
                *(f"{100 * last['dice'][k]:.1f}" for k in scored),
                *(f"{last['hd95'][k]:.1f}" for k in scored),
                end_section=mask == "refined",
            )
    return table


def _more_table(results: Mapping[str, Any], title: str) -> Table:
    """Tabulate the metrics other than Dice and HD95, by site, at the end of the stream."""
    more = [metric for metric in results["R"] if metric not in _ALWAYS]
    table = _table(title, "site", *(_MORE[metric] for metric in more))
    for site in _scored_at_end(results):
        column = results["sites"].index(site)
        row = results["deployed"][column]
        table.add_row(site, *(f"{100 * results['R'][metric]['mean'][row][column]:.1f}" for metric in more))
    return table


def _matrix_table(results: Mapping[str, Any], title: str) -> Table:
    """Tabulate R for the sites that score every row."""
    shown = [results["sites"].index(site) for site in results["evaluation"]["sites"]]
    named = len(shown) <= _NAMED_COLUMNS
    table = _table(title, "after stage", *(results["sites"][c] if named else str(c + 1) for c in shown))
    for number, (name, row) in enumerate(zip(results["stages"], results["R"]["dice"]["mean"], strict=True)):
        cells = ("" if row[column] is None else f"{100 * row[column]:.1f}" for column in shown)
        table.add_row(f"{number} {name}", *cells)
    return table


def _seconds(results: Mapping[str, Any]) -> str:
    """Return the seconds of each stage or, for a long stream, their sums over all stages."""
    sums: dict[str, float] = {}
    for name, value in results["seconds"].items():
        what = name if len(results["stages"]) <= _MOST_TIMES else name.rstrip(" 0123456789")
        sums[what] = sums.get(what, 0.0) + value
    return " · ".join(f"{name} {value:.1f}" for name, value in sums.items())


def _scored_at_end(results: Mapping[str, Any]) -> list[str]:
    """Return the sites that scored the student they use at the end."""
    dice = results["R"]["dice"]["mean"]
    at_end = zip(results["sites"], results["deployed"], strict=True)
    return [site for column, (site, row) in enumerate(at_end) if dice[row][column] is not None]


def _partial_note(results: Mapping[str, Any]) -> str | None:
    """Return a sentence on which entries of R were measured, if not all were."""
    about = results["evaluation"]
    if len(about["rows"]) == len(results["stages"]) and len(about["sites"]) == len(results["sites"]):
        return None
    sites = "all sites" if len(about["sites"]) == len(results["sites"]) else ", ".join(about["sites"])
    return (
        f"R was measured in part: after stages {', '.join(map(str, about['rows']))} on {sites}; after every stage on "
        "the site that trained; after the other stages also on the next site, if it is one of those. BWT, FWT and "
        "forgetting are means over the sites with the entries they need; forgetting is measured from the best "
        "measured score."
    )


def _stream_table(results: Mapping[str, Any], title: str) -> Table:
    table = _table(title, "score", "Dice (points)", "HD95 (mm, sign flipped)")
    for name in ("bwt", "fwt", "forgetting"):
        d, h = results[name]["dice"]["mean"], results[name]["hd95"]["mean"]
        table.add_row(name, "–" if d is None else f"{100 * d:+.1f}", "–" if h is None else f"{h:+.1f}")
    d, h = (results["forgetting_rate"][metric]["mean"] for metric in ("dice", "hd95"))
    table.add_row("forgetting rate", *("–" if v is None else f"{100 * v:.1f} %" for v in (d, h)))
    return table


def _bytes_table(results: Mapping[str, Any], title: str) -> Table:
    """Tabulate bytes by kind and, if the scans are known, everything except weights as a share of the site's scans on
    disk.

    The share covers the whole run, so no single stage has a larger one. By default a site trains in one stage.
    """
    kinds = sorted({kind for sent in results["bytes_out"].values() for kind in sent})
    raw = results.get("raw_nifti_bytes")  # a deployment's coordinator does not know it
    table = _table(title, "site", *kinds, "total", *(("excluding weights,\n% of raw scans",) if raw else ()))
    for site, sent in results["bytes_out"].items():
        share = (f"{100 * (sum(sent.values()) - sent.get('arrays', 0)) / raw[site]:.2f}",) if raw else ()
        table.add_row(site, *(f"{sent.get(kind, 0):,}" for kind in kinds), f"{sum(sent.values()):,}", *share)
    return table


def print_comparison(console: Console, comparison: Mapping[str, Any]) -> None:
    """Print the methods side by side and the answer, from the contents of ``comparison.json``."""
    data = comparison["data"]
    _print_warning(console, data.get("leak"))
    scored = comparison["scored"]
    count = sum(cases[scored] for cases in data["cases"].values())
    about = (
        f"{escape(data_in_words(data))}, {len(data['sites'])} sites, {count} {scored} cases for each seed, seeds "
        f"{', '.join(map(str, data['seeds']))}"
    )
    methods = comparison["methods"]
    named = {m["name"]: f"{m['name']}\n(breaks privacy)" if m["breaks_privacy"] else m["name"] for m in methods}
    scores = _table(
        f"Final scores with 95 % intervals ({about})",
        "method", "Dice %", "HD95 mm", "BWT", "FWT", "forgetting",
    )  # fmt: skip
    for method in methods:
        keys = ("dice", "hd95", "bwt", "fwt", "forgetting")
        shown = [_interval(method["scores"][key], 1 if key == "hd95" else 100) for key in keys]
        if known := method["scores"]["known_origin"]:
            shown[0] += f"\norigin known: {100 * known['value']:.1f}"
        scores.add_row(named[method["name"]], *shown)
    print_table(console, scores)
    print_table(console, _hospital_table(methods, named))
    kinds = list(dict.fromkeys(kind for m in methods for kind in m["bytes_out"] if kind not in _SMALL))
    costs = _table(
        "Costs: MB sent by all hospitals, by kind of record, and minutes of computation", "method", *kinds, "minutes"
    )
    for method in methods:
        sent = [f"{method['bytes_out'][kind] / 1e6:.2f}" if kind in method["bytes_out"] else "–" for kind in kinds]
        costs.add_row(named[method["name"]], *sent, f"{method['minutes']:.1f}")
    print_table(console, costs)
    for sentence in said(comparison["answer"], comparison):
        console.print(sentence, highlight=False, markup=False)
    _print_warning(console, data.get("leak"))


def _hospital_table(methods: Sequence[Mapping[str, Any]], named: Mapping[str, str]) -> Table:
    regions = list(methods[0]["dice_by_region"])
    table = _table(
        "Fairness: worst hospital, spread over hospitals, and Dice by region",
        "method", "worst\nhospital", "its\nDice %", "spread\n(pts)", *(f"{in_capitals(r)}\nDice %" for r in regions),
    )  # fmt: skip
    for method in methods:
        fairness, by_region = method["fairness"], method["dice_by_region"]
        scores = (fairness["worst"], fairness["spread"], *(by_region[region] for region in regions))
        table.add_row(
            named[method["name"]], escape(fairness["worst_site"]), *(_interval(score, 100) for score in scores)
        )
    return table


def print_study(console: Console, study: Mapping[str, Any]) -> None:
    """Print a study's table and sentences."""
    _print_warning(console, study.get("leak"))
    title = escape(f"{study['title']} ({study['data']})")
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(study["columns"]):
        table.add_column(escape(column), justify="right" if number else "left")
    for row in study["rows"]:
        table.add_row(*(_cell(value) for value in row))
    print_table(console, table)
    for sentence in said(study["sentences"], study):
        console.print(sentence, highlight=False, markup=False)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return escape(text.replace(" [", "\n["))  # the interval on a separate line


def _interval(score: Mapping[str, float | None] | None, factor: float) -> str:
    if score is None:
        return "–"
    value, low, high = (None if score[key] is None else factor * (score[key] or 0) for key in ("value", "low", "high"))
    return f"{value:.1f}" if low is None else f"{value:.1f}\n{low:.0f} … {high:.0f}"

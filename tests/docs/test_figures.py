"""Figures of the documentation show the code as it is."""

import re
from itertools import permutations
from xml.etree import ElementTree

import grimp
import pytest
from flwr.app import MessageType
from pages import ROOT

from fedserdiff.diffusion.refiner import Student
from fedserdiff.reply_schema import reply_rules
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import CONSOLIDATE, weights_to_record

IMAGES = ROOT / "docs" / "images"
REDRAW = "the figure is old: run `python docs/figures/draw.py`, look at it, and commit docs/images"
SIDES = ("sites", "strategies", "scripts")
ALONE = ("wire", "reply_schema")  # modules that are drawn beside packages
FOOT = ("data", "diffusion", "methods", "networks", "settings")  # drawn as one box, without arrows

Pairs = set[tuple[str, str]]


def listed(figure: str) -> dict[str, set[str]]:
    """Return what a figure was drawn from, as its file says: names by name."""
    told = ElementTree.parse(IMAGES / f"{figure}.svg").find(".//{http://purl.org/dc/elements/1.1/}description")
    assert told is not None
    lines = (line.partition(": ") for line in (told.text or "").splitlines())
    return {name.rstrip(":"): set(names.split()) for name, _, names in lines}


def followed(pairs: Pairs) -> Pairs:
    """Return which names lead to which, at once or through others."""
    found = set(pairs)
    while more := {(a, d) for a, b in found for c, d in pairs if b == c} - found:
        found |= more
    return {(a, b) for a, b in found if a != b}


def is_package(name: str) -> bool:
    return (ROOT / "fedserdiff" / name).is_dir() or name in (*SIDES, *ALONE)


@pytest.fixture(scope="module")
def imports() -> Pairs:
    """Which package, or module of ``fedserdiff``, imports which: of every two the import graph is asked."""
    graph = grimp.build_graph("fedserdiff", *SIDES, exclude_type_checking_imports=True, cache_dir=None)
    parts = [*SIDES, *graph.find_children("fedserdiff")]
    return {
        (one.removeprefix("fedserdiff."), other.removeprefix("fedserdiff."))
        for one, other in permutations(parts, 2)
        if graph.direct_import_exists(importer=one, imported=other, as_packages=True)
    }


def test_the_house_is_drawn_from_the_imports_that_there_are(imports: Pairs) -> None:
    drawn = {(name, other) for name, others in listed("house").items() for other in others}
    assert drawn == imports, REDRAW


def test_arrows_of_the_house_say_what_imports_what_and_no_more(imports: Pairs) -> None:
    ids = re.findall(r'id="arrow-(\w+)-(\w+)"', (IMAGES / "house.svg").read_text())
    to_foot = {(name, one) for name in {*SIDES, *listed("house")} if is_package(name) for one in FOOT}
    said = followed({*ids, *to_foot})
    true = {pair for pair in followed(imports) if all(map(is_package, pair))}
    assert said == true, REDRAW
    assert not {("sites", "strategies"), ("strategies", "sites")} & said


def test_the_figure_of_the_wire_has_every_record_that_may_leave() -> None:
    settings = make_settings(method="ser-diff", methods={"ser-diff": {"shared_error_maps": "null"}})
    student = weights_to_record(Student(settings))
    kinds = (MessageType.TRAIN, CONSOLIDATE, MessageType.EVALUATE)
    assert listed("wire-records") == {kind: set(reply_rules(kind, settings, 0, student)) for kind in kinds}, REDRAW


def test_the_figure_of_real_hospitals_has_the_figures_of_their_page() -> None:
    page = (ROOT / "docs" / "explanation" / "real-hospitals.md").read_text()
    table = page.partition("## Three seeds on test patients")[2].partition("\n- ")[0]
    rows = re.findall(r"^\| `([a-z-]+)`.*?\| [* ]*([\d.]+)[* ]+\[(\d+), (\d+)\]", table, re.MULTILINE)
    assert len(rows) == table.count("\n| `") > 3
    assert listed("stream") == {name: {f"{float(number):g}" for number in numbers} for name, *numbers in rows}, REDRAW
    means = {name: float(mean) for name, mean, *_ in rows}
    assert [*listed("stream")] == sorted(means, key=lambda name: -means[name]), "best first"

"""The house: packages, and which imports which, from the import graph of the code."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grimp
from canvas import COORDINATOR, HOSPITAL, RED, SHARED, WIDTH, Canvas

ROOTS = ("fedserdiff", "sites", "strategies", "scripts")
ON_THE_WIRE = ("wire", "reply_schema")
"""Modules of `fedserdiff` that are drawn. Other single modules, such as ``errors``, are left out."""

COMMON = ("settings", "methods", "networks", "diffusion", "data")
"""Packages that import one another. Every other package imports them, so arrows to them are left out."""

Imports = Mapping[str, frozenset[str]]
"""By the name of a package, the packages that it imports. Names are short: `fedserdiff.data` is ``data``."""


@dataclass(frozen=True)
class House:
    """The content of the figure.

    `imports` covers all packages and single modules, including those that are not drawn. `arrows` are the imports
    drawn: an arrow that follows from others is left out.
    """

    imports: Imports
    arrows: tuple[tuple[str, str], ...]

    def listing(self) -> str:
        """Return all imports, one line per package; the figure's file stores them and a test compares them."""
        return "\n".join(f"{name}: {' '.join(sorted(imported))}" for name, imported in sorted(self.imports.items()))


def read_house() -> House:
    """Read the imports from the code.

    Raises
    ------
    SystemExit
        If a package has no place in the figure, or if `COMMON` no longer fits the code.
    """
    imports, drawn = _imports()
    if lacking := sorted(drawn ^ set(_PLACES)):
        raise SystemExit(f"docs/figures/house.py: _PLACES: add or remove {', '.join(lacking)}")
    between = {name: _through(imports, name, drawn) for name in drawn}
    reached = {name: _through(between, name, frozenset()) for name in drawn}
    if any(set(COMMON) - {name} != reached[name] for name in COMMON):
        raise SystemExit("docs/figures/house.py: COMMON: these packages no longer import one another and nothing else")
    if apart := sorted(name for name in drawn - set(COMMON) if not set(COMMON) <= reached[name]):
        raise SystemExit(f"docs/figures/house.py: COMMON: {', '.join(apart)}: does not import these packages")
    return House(imports, tuple(sorted(_arrows(between, reached))))


def _imports() -> tuple[dict[str, frozenset[str]], frozenset[str]]:
    """Return the direct imports of each package, and the packages that are drawn."""
    graph = grimp.build_graph(*ROOTS, exclude_type_checking_imports=True, cache_dir=None)
    parts = (set(ROOTS) - {"fedserdiff"}) | graph.find_children("fedserdiff")
    owner = {module: part for part in parts for module in (part, *graph.find_descendants(part))}
    imports: dict[str, set[str]] = {part: set() for part in parts}
    for module, part in owner.items():
        found = {owner[one] for one in graph.find_modules_directly_imported_by(module) if one in owner}
        imports[part] |= found - {part}
    packages = {_short(part) for part in parts if graph.find_children(part)}
    named = {_short(part): frozenset(map(_short, found)) for part, found in imports.items()}
    return named, frozenset(packages | set(ON_THE_WIRE))


def _short(name: str) -> str:
    return name.removeprefix("fedserdiff.")


def _through(imports: Imports, name: str, ends: frozenset[str]) -> frozenset[str]:
    """Return what a package imports directly or through others; a path stops at the first of `ends`."""
    seen: set[str] = set()
    left = [name]
    while left:
        new = imports[left.pop()] - seen
        seen |= new
        left += new - ends
    return frozenset(seen & ends if ends else seen) - {name}


def _arrows(imports: Imports, reached: Imports) -> Iterable[tuple[str, str]]:
    for name, imported in imports.items():
        for one in imported - set(COMMON):
            if name not in COMMON and not any(one in reached[other] for other in imported - {one}):
                yield name, one


_PLACES = {
    "scripts": (40, 24, 160, 56),
    "commands": (300, 24, 200, 56),
    "experiments": (290, 134, 220, 56),
    "sites": (30, 300, 170, 220),
    "strategies": (598, 300, 174, 220),
    "deployment": (285, 296, 230, 56),
    "wire": (285, 376, 230, 56),
    "reply_schema": (285, 456, 230, 56),
    "augmentation": (16, 640, 222, 56),
    "lesions": (258, 640, 134, 56),
    "privacy": (416, 640, 140, 56),
    "statistics": (590, 640, 180, 56),
    "report": (610, 750, 140, 56),
    "comparison": (340, 750, 200, 56),
    "evaluation": (90, 750, 180, 56),
    **dict.fromkeys(COMMON, (20, 870, WIDTH - 40, 100)),
}
"""The box of each package: x, y, width, height."""

_LED = {
    ("experiments", "sites"): ((360, 190), (182, 300), 0),
    ("experiments", "strategies"): ((440, 190), (618, 300), 0),
    ("statistics", "wire"): ((606, 640), (515, 404), 0.15),
}
"""Arrows with a route of their own: start, end, bend."""


def draw_house(house: House) -> Canvas:
    """Draw packages as boxes, imports as arrows, and the trust boundary."""
    page = Canvas(990)
    page.area(20, 250, 190, 290, HOSPITAL)
    page.area(590, 250, 190, 290, COORDINATOR)
    page.area(0, 580, WIDTH, 410, SHARED)
    page.text(110, 274, "hospital")
    page.text(690, 274, "coordinator")
    page.text(400, 268, "agreed by both", colour=RED)
    page.text(784, 606, "both sides", align="right")
    page.text(400, 842, "every box above imports these five")
    for x in (242, 558):
        page.boundary((x, x), (250, 560))
    for name, place in _PLACES.items():
        if name not in COMMON:
            page.box(*place, name)
    page.box(*_PLACES[COMMON[0]], "settings · methods · networks\ndiffusion · data")
    for start, end in house.arrows:
        tail, head, bend = _LED.get((start, end)) or (*_between(_PLACES[start], _PLACES[end]), 0)
        page.arrow(tail, head, bend, name=f"arrow-{start}-{end}")
    return page


def _between(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the ends of an arrow between two boxes, which lie side by side or one below the other."""
    x, y, width, height = one
    to_x, to_y, to_width, to_height = other
    if to_y >= y + height:
        return (x + width / 2, y + height), (to_x + to_width / 2, to_y)
    level = max(y, to_y) + min(height, to_height) / 2
    return ((x + width, level), (to_x, level)) if to_x > x else ((x, level), (to_x + to_width, level))

"""The documentation site: ``sphinx-build -W -n -b html docs build/docs``."""

import pkgutil
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version as installed_version
from pathlib import Path

import click
from sphinx.application import Sphinx
from typer.cli import get_docs_for_click

from fedserdiff.commands.main import COMMANDS, load
from fedserdiff.methods import METHODS
from fedserdiff.report.console import PROGRAM
from fedserdiff.settings.declaration import Declared
from fedserdiff.settings.experiment import GROUPS, settings_of
from fedserdiff.settings.sources import DEFAULT_PROFILE, as_toml, make_settings, profile_names, profile_summary

ROOT = Path(__file__).resolve().parent.parent

project = PROGRAM
author = "The fedserdiff contributors"
copyright = author
release = version = installed_version(PROGRAM)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
smartquotes = False  # "--" begins an option

default_role = "code"  # docstrings mark code by single backticks
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
nitpick_ignore = [
    ("py:class", name)
    for name in ("fedserdiff.threads.T", "fedserdiff.threads.R", "fedserdiff.compilation.T", "sites.evaluation.T")
]  # type variables have no page
nitpick_ignore_regex = [
    ("py:.*", r"(?!fedserdiff|sites|strategies).*"),  # other projects' pages are not loaded
    ("py:class", r"fedserdiff\.(settings|methods)\.\w+\.(Annotated|_\w+)"),  # validators inside annotations
]

_ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
}
"""Files outside ``docs``, and the page of the site that includes each."""


def _commands() -> str:
    """Return the help of all commands as Markdown."""
    pages = []
    for name in COMMANDS:
        command = load(name)
        told = get_docs_for_click(
            obj=command, ctx=click.Context(command, info_name=name), name=name, call_prefix=PROGRAM
        )
        pages.append(re.sub(r"^\* `--help`.*\n", "", re.sub("^#", "##", told, flags=re.MULTILINE), flags=re.MULTILINE))
    return "\n".join(pages)


def _modules(package: str) -> str:
    """Return a section for each module of a package."""
    paths = [str(ROOT / package)]
    found = [m.name for m in pkgutil.walk_packages(paths, f"{package}.") if not m.ispkg]
    names = [package, *(name for name in found if not name.startswith("fedserdiff.commands."))]  # on their own page
    return "\n".join(f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in names)


def _table(rows: Iterable[Sequence[str]], *heads: str) -> str:
    cells = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in cells)


def _settings() -> str:
    """Return all settings as Markdown tables, one per group."""
    pages = []
    for group, kind in GROUPS.items():
        own = [one for one in settings_of() if one.name.startswith(f"{group}.")]
        pages.append(f"## {group}\n\n{kind.__doc__}\n\n{_of_group(own)}\n")
    pages.append("## method\n\n`method.name`, or `--method`, chooses the method. Some methods have further settings.\n")
    for name in METHODS:
        own = [one for one in settings_of(name) if one.name.startswith("method.")]
        if own:
            pages.append(f"### {name}\n\n{_of_group(own)}\n")
    alone = [one for one in settings_of() if "." not in one.name]
    return "\n".join([_of_group(alone), "", *pages])


def _of_group(own: Iterable[Declared]) -> str:
    rows = [
        [f"`{one.name}`", as_toml(one.default), one.allowed, one.sentence + (" *" if one.one_machine else "")]
        for one in own
    ]
    return _table(rows, "setting", "default", "takes", "what it does")


def _profiles() -> str:
    """Return a Markdown table of the settings in which profiles differ."""
    names = sorted(profile_names(), key=lambda name: (name != DEFAULT_PROFILE, profile_names().index(name)))
    by_profile = {name: make_settings(name).by_name for name in names}
    default = by_profile[DEFAULT_PROFILE]
    differing = [one for one in default if one != "profile" and len({str(of[one]) for of in by_profile.values()}) > 1]
    rows = [
        [
            f"`{one}`",
            *(
                as_toml(of[one]) if name == DEFAULT_PROFILE or of[one] != default[one] else ""
                for name, of in by_profile.items()
            ),
        ]
        for one in differing
    ]
    about = "\n".join(f"- `{name}`: {profile_summary(name)}" for name in names)
    return f"{about}\n\n{_table(rows, 'setting', *(f'`{name}`' for name in names))}"


_GENERATED = {"<!-- commands -->": _commands, "<!-- profiles -->": _profiles, "<!-- settings -->": _settings}


def _fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace marks by generated text, and point links to files outside ``docs`` at their pages."""
    up = "../" * docname.count("/")
    for file, page in _ELSEWHERE.items():
        source[0] = source[0].replace(f"](../{up}{file}", f"]({up}{page}")
    for mark, generated in _GENERATED.items():
        if mark in source[0]:
            source[0] = source[0].replace(mark, generated())
    source[0] = re.sub(r"<!-- modules of (\w+) -->", lambda mark: _modules(mark[1]), source[0])


def _escape(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Escape the star of a shape such as ``(N, *grid)``."""
    lines[:] = [re.sub(r"(?<![*\\])\*(?=\w|,)", r"\\*", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Connect the functions that change pages as Sphinx reads them."""
    app.connect("source-read", _fill)
    app.connect("autodoc-process-docstring", _escape)

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
smartquotes = False  # two hyphens are an option's

default_role = "code"  # single backticks in docstrings are code, most of it within the module
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
nitpick_ignore = [
    ("py:class", name)
    for name in ("fedserdiff.threads.T", "fedserdiff.threads.R", "fedserdiff.compilation.T", "sites.evaluation.T")
]  # variables
nitpick_ignore_regex = [
    ("py:.*", r"(?!fedserdiff|sites|strategies).*"),  # other projects' pages are not at hand
    ("py:class", r"fedserdiff\.(settings|methods)\.\w+\.(Annotated|_\w+)"),  # what checks a value
]

_ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
}
"""Files beside ``docs``, by the page of the site that stands for each."""


def _commands() -> str:
    """Return the help of all commands as Markdown, below a page's title."""
    pages = []
    for name in COMMANDS:
        command = load(name)
        told = get_docs_for_click(
            obj=command, ctx=click.Context(command, info_name=name), name=name, call_prefix=PROGRAM
        )
        pages.append(re.sub(r"^\* `--help`.*\n", "", re.sub("^#", "##", told, flags=re.MULTILINE), flags=re.MULTILINE))
    return "\n".join(pages)


def _modules(package: str) -> str:
    """Return what documents every module of a package that has something public."""
    paths = [str(ROOT / package)]
    found = [m.name for m in pkgutil.walk_packages(paths, f"{package}.") if not m.ispkg]
    names = [package, *(name for name in found if not name.startswith("fedserdiff.commands."))]  # a page of their own
    return "\n".join(f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in names)


def _table(rows: Iterable[Sequence[str]], *heads: str) -> str:
    cells = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in cells)


def _settings() -> str:
    """Return a table of every setting by group, as Markdown."""
    pages = []
    for group, kind in GROUPS.items():
        own = [one for one in settings_of() if one.name.startswith(f"{group}.")]
        pages.append(f"## {group}\n\n{kind.__doc__}\n\n{_of_group(own)}\n")
    pages.append("## method\n\nA method has settings of its own; `method.name`, or `--method`, chooses it.\n")
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
    """Return a table of the settings in which profiles differ, as Markdown."""
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
    """Write what is generated in place of its mark, and lead links to files beside ``docs`` to their pages."""
    up = "../" * docname.count("/")
    for file, page in _ELSEWHERE.items():
        source[0] = source[0].replace(f"](../{up}{file}", f"]({up}{page}")
    for mark, generated in _GENERATED.items():
        if mark in source[0]:
            source[0] = source[0].replace(mark, generated())
    source[0] = re.sub(r"<!-- modules of (\w+) -->", lambda mark: _modules(mark[1]), source[0])


def _escape(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Take the star of a shape such as ``(N, *grid)`` for what it is."""
    lines[:] = [re.sub(r"(?<![*\\])\*(?=\w|,)", r"\\*", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Have pages filled as they are read."""
    app.connect("source-read", _fill)
    app.connect("autodoc-process-docstring", _escape)

"""The documentation site: ``sphinx-build -W -n -b html docs build/docs``."""

import pkgutil
import re
from importlib.metadata import version as installed_version
from pathlib import Path

import click
from sphinx.application import Sphinx
from typer.cli import get_docs_for_click

from fedserdiff.commands.main import COMMANDS, load
from fedserdiff.config import PROFILES, ExperimentConfig
from fedserdiff.report.console import PROGRAM

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
nitpick_ignore = [("py:class", f"fedserdiff.threads.{name}") for name in "TR"]  # type variables
nitpick_ignore_regex = [("py:.*", r"(?!fedserdiff|sites|strategies).*")]  # other projects' pages are not at hand

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
    names = [package, *(m.name for m in pkgutil.walk_packages(paths, f"{package}.") if not m.ispkg)]
    return "\n".join(f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n" for name in names)


def _profiles() -> str:
    """Return a table of the settings in which profiles differ, as Markdown."""
    fields = sorted({field for settings in PROFILES.values() for field in settings})
    others = [name for name, settings in PROFILES.items() if settings]
    rows = [["setting", "`laptop`", *(f"`{name}`" for name in others)], ["---"] * (2 + len(others))]
    for field in fields:
        told = [str(PROFILES[name][field]) if field in PROFILES[name] else "" for name in others]
        rows.append([f"`{field}`", str(getattr(ExperimentConfig, field)), *told])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


_GENERATED = {"<!-- commands -->": _commands, "<!-- profiles -->": _profiles}


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

"""Programs accept every command line in the documentation: options exist, values convert, no argument is missing."""

import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer
from pages import PAGES, ROOT, blocks, inline

from fedserdiff.commands.main import app

LANGUAGES = {"bash", "json", "nginx", "python", "text", "toml"}
"""Languages of fenced blocks. Commands to type are in ``bash`` blocks, which are checked."""

NOT_OURS = {
    ".": "activates a virtual environment",
    "cd": "the shell's",
    "export": "the shell's",
    "flower-superlink": "Flower's; tests/deployment holds what provision prints of it against Flower's own parser",
    "flwr": "Flower's; the same",
    "jupyter": "shows notebooks; tests/e2e/test_notebook.py runs the one that is named",
    "lint-imports": "of the dev extra",
    "mkdir": "the system's",
    "mlflow": "MLflow's page, which no extra brings",
    "mypy": "of the dev extra",
    "pip": "Python's",
    "pkill": "the system's",
    "pytest": "of the dev extra",
    "python3": "makes a virtual environment",
    "ray": "Ray's; tests/e2e/ray_cluster.py starts it so",
    "ruff": "of the dev extra",
    "sphinx-build": "of the dev extra; test_documentation_site.py runs it",
    "ssh-keygen": "the system's; tests/deployment/test_certificates.py has keys that it made",
    "tar": "the system's",
    "tensorboard": "of the tensorboard extra",
}
"""Other projects' programs, and why their command lines are not parsed here."""


def words_of(text: str) -> Iterator[list[str]]:
    """Yield the commands of a shell's lines, as words."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        redirected = False
        for word in [*lexer, "&&"]:
            if redirected or word == ">":  # the shell's own, and the file it names
                redirected = word == ">"
            elif word in ("&&", "||", "|", ";"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


@cache
def group() -> click.Command:
    """Return the program; options that act as they are read, such as ``--install-completion``, do nothing here."""
    program = typer.main.get_command(app)
    for parameter in program.params:
        parameter.callback = None
    return program


@cache
def script(name: str) -> click.Command:
    """Import a script of the checkout that is no part of the program."""
    return typer.main.get_command(importlib.import_module(name).app)


def parse(command: click.Command, name: str, arguments: list[str], parent: click.Context | None = None) -> None:
    """Let click parse a whole command line without running it."""
    with contextlib.suppress(click.exceptions.Exit), contextlib.redirect_stdout(io.StringIO()):  # --help, --version
        context = command.make_context(name, list(arguments), parent=parent)
        left = [*context._protected_args, *context.args]
        if isinstance(command, click.Group) and left:
            called, part, rest = command.resolve_command(context, left)
            assert part is not None
            parse(part, str(called), rest, context)


def check(words: list[str]) -> None:
    """Check that a program accepts a command line.

    Raises
    ------
    click.UsageError
        If it does not.
    LookupError
        If the program is unknown.
    """
    program, *arguments = words
    if program == "python" and arguments[:1] == ["-c"]:
        compile(arguments[1], "<python -c>", "exec")
    elif program == "python" and (named := re.fullmatch(r"scripts/(\w+)\.py", arguments[0])):
        assert (ROOT / arguments[0]).is_file(), arguments[0]
        if (ROOT / "fedserdiff" / "commands" / f"{named[1]}.py").is_file():
            parse(group(), "fedserdiff", [named[1], *arguments[1:]])
        else:
            parse(script(named[1]), named[1], arguments[1:])
    elif program == "python" and arguments == ["tests/e2e/kill_points.py"]:
        assert (ROOT / arguments[0]).is_file()
    elif program == "fedserdiff":
        parse(group(), program, arguments)
    elif program not in NOT_OURS:
        raise LookupError(f"{program}: neither ours nor in NOT_OURS")


def refusals(text: str, named: bool = False) -> Iterator[str]:
    """Yield each command that its program refuses, and why; a `named` command may lack arguments."""
    for words in words_of(text):
        try:
            check(words)
        except click.MissingParameter as error:
            if not named:
                yield f"{' '.join(words)}: {error.format_message()}"
        except click.UsageError as error:
            yield f"{' '.join(words)}: {error.format_message()}"
        except (LookupError, SyntaxError) as error:
            yield f"{' '.join(words)}: {error}"


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scripts import each other by name, and keep tests away from the account's own files."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_command_lines_are_taken(page: Path) -> None:
    lines = [(block.where, block.text) for block in blocks(page) if block.language == "bash"]
    assert [f"{place}: {reason}" for place, text in lines for reason in refusals(text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_text_are_taken(page: Path) -> None:
    """A command that is only mentioned may lack required arguments."""
    ours = re.compile(r"(python scripts/\w+\.py|fedserdiff [a-z-]).*")
    lines = [(place, token.content) for place, token in inline(page) if token.type == "code_inline"]
    told = [(place, text) for place, text in lines if ours.match(text)]
    assert [f"{place}: {reason}" for place, text in told for reason in refusals(text, named=True)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is_in(page: Path) -> None:
    """A command line in a block without a language would not be checked."""
    known = {block.where: block.language for block in blocks(page) if not block.language.startswith("{")}
    assert {where: language for where, language in known.items() if language not in LANGUAGES} == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("fedserdiff simulate --site 3", "No such option"),
        ("fedserdiff simulate --sites three", "not a valid integer"),
        ("fedserdiff hospital", "Missing parameter: kit"),
        ("fedserdiff provision --sites 3", "Missing parameter: coordinator"),
        ("cd x && fedserdiff audit legder FILE", "No such command"),
        ("python scripts/audit.py ledger a b", "unexpected extra argument"),
        ("python scripts/benchmark.py scale", "Missing parameter: out"),
        ("python scripts/compare.py --seeds", "requires an argument"),
        ("rm -rf runs", "neither ours nor in NOT_OURS"),
    ],
)
def test_a_line_that_is_not_taken_is_found(line: str, reason: str) -> None:
    *good, last = words_of(line)
    for words in good:
        check(words)
    with pytest.raises((click.UsageError, LookupError), match=f"(?i){reason}"):
        check(last)


def test_a_line_that_would_act_as_it_is_read_does_nothing(tmp_path: Path) -> None:
    check(["fedserdiff", "--install-completion"])
    assert not any(tmp_path.iterdir())


def test_lines_that_are_taken_are() -> None:
    for line in (
        "fedserdiff --version",
        "fedserdiff audit ledger FILE --all  # all rows",
        "fedserdiff compare \\\n --seeds 0,1",
    ):
        for words in words_of(line):
            check(words)

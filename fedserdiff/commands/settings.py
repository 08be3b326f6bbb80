"""Print all settings as an experiment file: value, default, range and source of each."""

import textwrap
from collections.abc import Callable, Iterator

import typer

from fedserdiff.commands import options
from fedserdiff.commands.common import clear_errors
from fedserdiff.report.console import open_console
from fedserdiff.settings.experiment import GROUPS, Settings, settings_of
from fedserdiff.settings.sources import Layers, as_toml

_WIDTH = 118

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog=options.EPILOG)
@options.takes_settings()
def main(chosen: Callable[[], options.Chosen], experiment: options.Experiment = None) -> None:
    """Print all settings as TOML, to read or to start an experiment file from."""
    with clear_errors("nothing was written"):
        layers = chosen().layers(experiment)
        text = "\n".join(_lines(layers.settings(), layers))
    open_console().print(text, markup=False, highlight=False, soft_wrap=True)


def _lines(settings: Settings, layers: Layers) -> Iterator[str]:
    about = type(settings.method).__doc__ or ""
    tables = {"": "", "method": about, **{name: group.__doc__ or "" for name, group in GROUPS.items()}}
    yield f"profile = {as_toml(settings.profile)}"
    for table, sentence in tables.items():
        if table:
            yield f"\n[{table}]  # {sentence.partition(chr(10))[0]}"
        if table == "method":
            yield f"name = {as_toml(settings.method.name)}  # from {layers.came_from('method')}"
        for one in settings_of(settings.method.name):
            group, _, name = one.name.rpartition(".")
            if group == table:
                source = layers.came_from(one.name)
                told = f"{one.sentence} Allowed: {one.allowed}; default: {as_toml(one.default)}; set by: {source}."
                yield ""
                yield from textwrap.wrap(told, _WIDTH, initial_indent="# ", subsequent_indent="# ")
                yield f"{name} = {as_toml(settings.value(one.name))}"


if __name__ == "__main__":
    app()

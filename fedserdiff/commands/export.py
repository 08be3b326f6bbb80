"""Export a run's final student as one file to hand on: safetensors with its config, no executable code."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from fedserdiff.commands.common import clear_errors
from fedserdiff.errors import ConfigError
from fedserdiff.report.console import open_console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    out: Annotated[Path, typer.Option(help="File to write, such as model.safetensors.")],
    site: Annotated[
        str | None,
        typer.Option(
            help="Hospital whose scans the model will segment: its name in the run, or the folder with what it keeps."
        ),
    ] = None,
) -> None:
    """Write student, config and labels to one file, with the adapter of the named hospital if it has one."""
    console = open_console()
    with clear_errors("nothing was written"):
        if not run.is_dir():
            raise ConfigError(f"{run}: is not the directory of a run")
        if out.exists():
            raise ConfigError(f"--out: {out} already exists; choose another file")
        # with torch, for which help and completion should not wait
        from fedserdiff.experiments.opened_model import open_run
        from fedserdiff.model_file import save_model

        model = open_run(run, site)
        save_model(out, model)
        about = model.about
        console.print(
            f"{escape(str(out))}: {out.stat().st_size:,} bytes: {about['method']}, seed {about['seed']}, trained on "
            f"{escape(about['data'])} data, site {about['site']}, "
            + ", ".join(f"{part}: {about[part]}" for part in ("adapter", "personal weights") if part in about),
            soft_wrap=True,
        )
        if "included" in (about["adapter"], about.get("personal weights")):
            console.print(
                "Part of the model was trained only on that hospital's scans: do not give the file to anybody else"
            )

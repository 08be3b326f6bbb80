"""Write another stream of phantom hospitals, and the federation file that names them: what no method was tuned on."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from commands.common import clear_errors, progress_bars
from fedserdiff.config import make_config
from fedserdiff.data.phantom.generate import write_phantom_hospital
from fedserdiff.data.phantom.hospitals import phantom_hospital
from fedserdiff.errors import ConfigError
from fedserdiff.files import write_whole

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Where the hospitals and federation.toml go.")],
    first: Annotated[int, typer.Option(help="Number of the first phantom hospital, from 1; the default stream has 1.")],
    sites: Annotated[int, typer.Option(help="Number of hospitals.")] = 3,
    profile: Annotated[str, typer.Option(help="Profile, for the number of patients and the voxel size.")] = "laptop",
    seed: Annotated[int, typer.Option(help="Seed of the patients.")] = 0,
) -> None:
    """Write phantom hospitals `first` and later, whose scanners and patients are drawn by their number."""
    console = Console()
    with clear_errors("hospitals that were written are kept"):
        if first < 1 or sites < 1:
            raise ConfigError("--first, --sites: are at least 1")
        config = make_config(profile, seed=seed)
        entries = []
        with progress_bars(console) as show:
            for index in range(first - 1, first - 1 + sites):
                name = f"site-{index + 1}"

                def told(done: int, total: int, name: str = name) -> None:
                    show(f"scanning phantoms of {name}", done, total)

                where = write_phantom_hospital(
                    folder, index, config.phantom_patients, config.spacing_mm, config.seed, told
                )
                release = phantom_hospital(index).release
                entries.append(f'[[site]]\nname = "{name}"\nrelease = "{release}"\npath = "{where.name}"\n')
        file = folder / "federation.toml"
        write_whole(file, lambda opened: opened.write("\n".join(entries).encode()))
    console.print(f"{sites} phantom hospitals: {file}", soft_wrap=True)


if __name__ == "__main__":
    app()

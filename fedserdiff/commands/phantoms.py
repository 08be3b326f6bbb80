"""Write a stream of phantom hospitals, with brains or prostates, and a federation file that lists them."""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fedserdiff.commands import options
from fedserdiff.commands.common import clear_errors
from fedserdiff.errors import ConfigError
from fedserdiff.experiment_file import site_lines
from fedserdiff.files import write_whole
from fedserdiff.report.console import open_console, progress_bars
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import as_toml, make_settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Organ(StrEnum):
    """Organ of the phantoms: gliomas in the layouts of the BraTS releases, or prostates in that of the Decathlon."""

    BRAIN = "brain"
    PROSTATE = "prostate"


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Folder for the hospitals and their federation file.")],
    organ: Annotated[Organ, typer.Option(help="Organ of the phantoms.")] = Organ.BRAIN,
    first: Annotated[
        int,
        typer.Option(
            help="Number of the first hospital, starting at 1; the stream of `fedserdiff simulate` begins with brain 1."
        ),
    ] = 1,
    sites: Annotated[int, typer.Option(help="Number of hospitals.")] = 3,
    stream: Annotated[
        str | None,
        typer.Option(help="Stream that the brains belong to.", show_default=options.default_of("data.phantom_stream")),
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Profile that gives the number of patients and the voxel size.")
    ] = "laptop",
    seed: Annotated[int, typer.Option(help="Random seed of the patients.")] = 0,
) -> None:
    """Write phantom hospitals from number `first` on; the number determines a hospital's scanner and patients."""
    console = open_console()
    with clear_errors("hospitals written so far are kept"):
        if first < 1 or sites < 1:
            raise ConfigError("--first, --sites: must be at least 1")
        # with torch, for which help and completion should not wait
        from fedserdiff.data.phantom import prostate
        from fedserdiff.federation import written_phantom

        if stream is not None and organ is Organ.PROSTATE:
            raise ConfigError("--stream: only applies to brains; leave it out for prostates")
        config = make_settings(profile, {} if stream is None else {"data.phantom_stream": stream}, seed=seed)
        write = written_phantom if organ is Organ.BRAIN else _write_prostates
        entries = []
        if organ is Organ.PROSTATE:
            for field, names in (("modalities", prostate.MODALITIES), ("regions", prostate.REGIONS)):
                entries.append(f"{field} = {as_toml(names)}\n")
        with progress_bars(console) as show:
            for index in range(first - 1, first - 1 + sites):
                site = write(index, config, folder, lambda s, d, t: show(f"scanning phantoms of {s}", d, t))
                lines = site_lines(replace(site, path=Path(site.path).name))
                entries.append("".join(f"{line}\n" for line in lines))
        file = folder / f"phantom-{organ}s.toml"
        write_whole(file, lambda opened: opened.write("\n".join(entries).encode()))
    console.print(f"{sites} phantom hospitals: {file}", soft_wrap=True)


def _write_prostates(index: int, config: Settings, folder: Path, told: Callable[[str, int, int], None]) -> Site:
    from fedserdiff.data.decathlon import MSD
    from fedserdiff.data.phantom import prostate

    site = Site(f"site-{index + 1}", MSD, str(folder / f"prostates-{index + 1}-seed{config.seed}"))
    patients, spacing_mm = config.data.phantom_patients, config.data.spacing_mm
    prostate.write_prostate_hospital(
        Path(site.path), index, patients, spacing_mm, config.seed, partial(told, site.name)
    )
    return site

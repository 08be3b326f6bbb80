"""Segment scans with a run's final student, or with an exported model."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

from fedserdiff.commands.common import clear_errors
from fedserdiff.data.releases import RELEASES, Convention, release_or_file
from fedserdiff.errors import ConfigError, DataError
from fedserdiff.report.console import Bars, open_console, warn
from fedserdiff.text import first_few

if TYPE_CHECKING:
    import torch

    from fedserdiff.data.scans import FoundScans, Scan
    from fedserdiff.segmenter import Segmentation, Segmenter

_MOST_LEFT = 20  # paths in one message
_MOST_OF_A_VOLUME = 0.6  # a skull-stripped brain fills a sixth of a BraTS volume

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[
        Path, typer.Argument(help="Directory of a finished run, or a file written by `fedserdiff export`.")
    ],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of cases, single case folders, or 4D files.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for CASE.nii.gz, one label map for each scan.")] = Path(
        "segmentations"
    ),
    site: Annotated[
        str | None,
        typer.Option(help="Hospital that the scans come from: its name in the run, or the folder with what it keeps."),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(help="File of one modality, such as t1=FILE; repeat for each modality, and give --name."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the scan given by --image.")] = None,
    release: Annotated[
        str | None,
        typer.Option(
            help=f"Release whose labels to write: {', '.join(RELEASES)}, or a TOML file.", show_default="the model's"
        ),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write CASE-probabilities.nii.gz, with one volume for each region.")
    ] = False,
    error_map: Annotated[
        bool,
        typer.Option(
            "--error-map", help="Write CASE-error.nii.gz: the error map, which is what the diffusion corrected."
        ),
    ] = False,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Write CASE.png, which shows the slices with the largest regions.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N.", show_default="cuda if there is a GPU, otherwise cpu")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Third-party network or method that the model's file names and that you allow to run here."),
    ] = None,
) -> None:
    """Write a label map for each scan on the scan's own grid, so that it is aligned with the images."""
    console = open_console()
    with clear_errors("segmentations written so far are complete"):
        # with torch, for which help and completion should not wait
        from fedserdiff.data.nifti_writing import write_like
        from fedserdiff.experiments.opened_model import open_model
        from fedserdiff.report.overlay import plot_overlay

        segmenter = open_model(model, site, allow or ()).to(_device(console, device))
        convention = _convention(release, segmenter)
        found = _scans(segmenter, scans or [], image or [], name)
        taken = [scan.name for scan in found.scans if (out / f"{scan.name}.nii.gz").exists()]
        if taken:
            raise ConfigError(f"--out: {out}: already has a segmentation of {taken[0]}; choose another folder")
        if found.unread:
            count = "1 image" if len(found.unread) == 1 else f"{len(found.unread)} images"
            _say(
                console, f"not read: {count} in addition to those of the scans, such as {escape(str(found.unread[0]))}"
            )
        for why in found.left[:_MOST_LEFT]:
            _say(console, f"[yellow]not segmented:[/yellow] {escape(why)}")
        written, left = 0, list(found.left)
        with Bars(console) as progress:
            bar = progress.add_task("segmenting", total=len(found.scans))
            for done, scan in enumerate(found.scans):
                progress.update(bar, description=f"segmenting {escape(scan.name)}", completed=done)
                try:
                    segmentation = segmenter.segment(scan)
                except DataError as error:  # go on with the other patients' scans
                    left.append(str(error))
                    _say(console, f"[yellow]not segmented:[/yellow] {escape(str(error))}")
                    continue
                labels = segmentation.labels(convention)
                _warn(console, scan, segmentation)
                if probabilities:
                    write_like(out / f"{scan.name}-probabilities.nii.gz", segmentation.scan, segmentation.probabilities)
                if error_map:
                    write_like(out / f"{scan.name}-error.nii.gz", segmentation.scan, segmentation.error_map)
                if overlay:
                    plot_overlay(segmentation, scan.name, out / f"{scan.name}.png")
                smallest = np.uint8 if labels.max() < 256 else np.uint16
                write_like(out / f"{scan.name}.nii.gz", segmentation.scan, labels.astype(smallest))
                written += 1
        if written:
            about = segmenter.about
            origin = f"trained by {about['method']}, seed {about['seed']}, on {escape(about['data'])} data"
            maps = "1 label map" if written == 1 else f"{written} label maps"
            _say(console, f"{maps} in {escape(str(out))}: labels of {convention.name}; {origin}: not a medical device")
        if left:
            raise DataError(f"not segmented: {first_few(left, _MOST_LEFT, '; ')}")


def _device(console: Console, name: str | None) -> "torch.device":
    import torch

    from fedserdiff.device import compute_repeatably, settle_gpus

    compute_repeatably()
    if name is None:
        return torch.device("cuda" if settle_gpus(None, "--device", partial(warn, console)) else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"--device: {name!r} cannot be used on this machine ({reason})") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device: {name!r} is neither cpu nor cuda")
    return device


def _convention(release: str | None, segmenter: "Segmenter") -> Convention:
    """Return the label convention to write: the model's, or that of a release with the model's regions."""
    own = segmenter.convention
    if release is None or release == own.name:
        return own
    try:
        return release_or_file(release).agreed(own.modalities, tuple(own.regions))
    except DataError as error:
        raise ConfigError(f"--release: {error}") from None


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _scans(segmenter: "Segmenter", paths: list[Path], images: list[str], name: str | None) -> "FoundScans":
    from fedserdiff.data.scans import FoundScans, find_scans, named_scan

    modalities = segmenter.convention.modalities
    if bool(paths) == bool(images) or (name is None) == bool(images):
        raise ConfigError("scans: give either scans, or --image MODALITY=FILE for each modality together with --name")
    if name is not None:
        if not name or Path(name).name != name:
            raise ConfigError(f"--name: {name!r} cannot be used as a file name")
        return FoundScans([named_scan(name, _by_modality(images), modalities)])
    found = find_scans(paths, modalities, segmenter.channels)
    by_name: dict[str, Scan] = {}
    for scan in found.scans:
        if (other := by_name.setdefault(scan.name, scan)) is not scan:
            raise ConfigError(
                f"{scan.images[0]}, {other.images[0]}: two scans are called {scan.name}, so their segmentations would "
                "be the same file; give one of them, or use --image with --name"
            )
    return found


def _by_modality(images: list[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for text in images:
        modality, equals, file = text.partition("=")
        if not equals or not file or modality in files:
            raise ConfigError(f"--image: {text!r} is not MODALITY=FILE, or its modality is given twice")
        files[modality] = Path(file)
    return files


def _warn(console: Console, scan: "Scan", segmentation: "Segmentation") -> None:
    """Warn if a scan is not skull-stripped, as the BraTS model expects; it is segmented anyway."""
    if segmentation.convention.name not in RELEASES:
        return
    share = float(np.count_nonzero(segmentation.scan.voxels)) / segmentation.scan.voxels.size
    if share > _MOST_OF_A_VOLUME:
        warn(
            console,
            f"{escape(scan.name)}: {100 * share:.0f} % of its voxels are not 0; the model only knows skull-stripped "
            "brains, with 0 around them",
        )

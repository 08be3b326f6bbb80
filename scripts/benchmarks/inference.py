"""The cost of segmenting one whole volume with this project's network and with established networks."""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedserdiff.commands.common import clear_errors
from fedserdiff.data.cache import CachedCase, cached_cases
from fedserdiff.data.cases import Case, find_cases
from fedserdiff.data.phantom.generate import write_phantom_hospital
from fedserdiff.data.phantom.hospitals import phantom_hospital
from fedserdiff.data.releases import BRATS_REGIONS, get_release
from fedserdiff.diffusion.inference import predict_volume
from fedserdiff.diffusion.precision import has_bf16
from fedserdiff.diffusion.refiner import Student
from fedserdiff.errors import ConfigError
from fedserdiff.experiments.opened_federation import Cache
from fedserdiff.files import write_whole
from fedserdiff.report.console import open_console, print_table
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.groups import Precision
from fedserdiff.settings.sources import make_settings
from fedserdiff.threads import use_cpus

from benchmarks.enlarged_coarse import enlarged_coarse
from benchmarks.machine import machine, seconds_of
from benchmarks.peer_networks import PEERS, Peer
from benchmarks.separate_process import run_apart

GRID = (160, 192, 160)
"""Grid of 1 mm voxels that holds a whole brain."""

_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16") if has_bf16("cpu") else ("fp32",)
"""bf16 is left out if the CPU only emulates it: a peer would take half an hour."""

_OURS = {
    "refined": "refined mask",
    "refined-all": "refined mask, also in slices without tumour",
    "refined-1": "refined mask, one step",
    "coarse": "coarse mask alone",
    "enlarged": "coarse mask of a network with as many FLOPs as the refined one",
}
_TIMEOUT_S = 3 * 3600.0


@dataclass(frozen=True)
class Measurement:
    """One measurement in a separate process: one method in one precision.

    `windows` is the number of timed windows of a peer, `repeats` that of timed predictions of this project's networks.
    """

    method: str
    case: Case
    release: str
    config: Settings
    threads: int
    windows: int
    repeats: int


@dataclass(frozen=True)
class Cost:
    """The cost of one volume.

    Attributes
    ----------
    seconds, flops : float
        Cost of the brain's box. A multiply-add counts as two FLOPs.
    timed : list of float
        Measured seconds of each prediction of a volume, or of each pass over a window.
    windows, passes : int
        For a peer: windows in the brain's box, and passes per window. Both are 1 for this project's networks.
    encoding_s : float
        For a peer: seconds of the encoder, which runs once per window; 0 if there is none.
    whole_s : float, optional
        For a peer: seconds for the whole field of view, not cropped to the brain.
    extrapolated : bool
        Whether `seconds` were extrapolated from a part.
    """

    seconds: float
    flops: float
    timed: list[float]
    windows: int = 1
    passes: int = 1
    encoding_s: float = 0.0
    whole_s: float | None = None
    extrapolated: bool = False


def inference(
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    case: Annotated[Path | None, typer.Option(help="Folder of a real case; otherwise a phantom.")] = None,
    release: Annotated[str, typer.Option(help="BraTS release of --case.")] = "brats2021",
    only: Annotated[str, typer.Option(help=f"Methods, of {','.join([*_OURS, *PEERS])}.")] = ",".join([*_OURS, *PEERS]),
    profile: Annotated[str, typer.Option(help="Profile whose networks are timed, on a 1 mm grid.")] = "laptop",
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 means one per core.")] = 0,
    windows: Annotated[int, typer.Option(help="Number of windows of each peer to time; the rest is extrapolated.")] = 3,
    repeats: Annotated[int, typer.Option(help="Number of predictions of this project's networks to time.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the phantom and of the weights.")] = 0,
) -> None:
    """Time a 1 mm volume, each method in a separate process; print FLOPs and peak memory too.

    It runs in fp32 and, if the CPU supports it natively, in bf16.
    """
    console = open_console()
    with clear_errors(f"finished measurements are in {out}"):
        methods = _methods(only)
        if min(windows, repeats) < 1 or threads < 0:
            raise ConfigError("--windows and --repeats must be at least 1, --threads at least 0")
        config = make_settings(profile, {"data.grid": GRID, "data.spacing_mm": 1.0}, seed=seed)
        with console.status("preparing the volume"):
            scan = _phantom(seed) if case is None else _real(case, release)
            of_release = phantom_hospital("contrast", 0).release if case is None else release
            geometry = _prepared(scan, of_release, config).prepared.geometry
        measured = Measurement("", scan, of_release, config, threads or os.cpu_count() or 1, windows, repeats)
        report: dict[str, Any] = {
            "data": "phantom, site 1" if case is None else of_release,
            "case": scan.name,
            "seed": seed,
            "machine": machine(measured.threads),
            "field of view": list(geometry.shape),
            "brain's box": list(geometry.inner_shape),
            "config": config.to_dict(),
            "rows": [],
        }
        for method in methods:
            for precision in _PRECISIONS:
                one = replace(measured, method=method, config=config.replace({"network.precision": precision}))
                with console.status(f"{method}, {precision}"):
                    cost, peak = run_apart(measure, one, f"{method}, {precision}", _TIMEOUT_S)
                report["rows"].append({"method": method, "precision": precision, "peak_mib": peak, **asdict(cost)})
                console.print(f"  {method}, {precision}: {cost.seconds:.1f} s, {peak:.0f} MiB")
                report["ratios"] = ratios(report["rows"])
                write_whole(out, lambda opened: opened.write((json.dumps(report, indent=2) + "\n").encode()))
    _print(console, report)


def measure(task: Measurement) -> Cost:
    """Measure one method in this process; peers use the CPUs through torch's own threads."""
    torch.set_num_threads(task.threads)
    cached = _prepared(task.case, task.release, task.config)
    with torch.inference_mode():
        return _peer_cost(PEERS[task.method], cached, task) if task.method in PEERS else _own_cost(cached, task)


class _Discerning(Student):
    """A student that sees tumour only in marked slices, as a trained one would in slices with tumour."""

    def segment(self, image: torch.Tensor) -> torch.Tensor:
        marked = image[:, :1, :1, :1] > 0
        return super().segment(image) * marked


class _CoarseAlone(Student):
    """A student without refinement, so that the rest of `predict_volume` is the same for both masks."""

    def sample(self, context: torch.Tensor, steps: int, noise: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(context), len(BRATS_REGIONS), *context.shape[2:])


def _marked(cached: CachedCase) -> NDArray[np.float16]:
    """Return the image with a mark in the corner of each slice with tumour, outside the brain."""
    image = np.array(cached.prepared.image)
    image[0, 0, 0] = np.any(cached.prepared.mask, axis=(0, 1, 2))
    return image


def _own_cost(cached: CachedCase, task: Measurement) -> Cost:
    """Predict once on one thread to warm up and count FLOPs, then `repeats` times on all threads."""
    config = enlarged_coarse(task.config) if task.method == "enlarged" else task.config
    kinds = {"refined": _Discerning, "refined-1": _Discerning, "refined-all": Student}
    student = kinds.get(task.method, _CoarseAlone)(config)
    image = _marked(cached)
    steps = 1 if task.method == "refined-1" else config.scoring.sampling_steps

    def predict() -> None:
        predict_volume(student, image, steps, generator(config.seed, "noise"))

    use_cpus(1)  # FLOPs are counted only in the calling thread
    with FlopCounterMode(display=False) as counter:
        predict()
    use_cpus(task.threads)
    timed = [seconds_of(predict) for _ in range(task.repeats)]
    return Cost(statistics.median(timed), counter.get_total_flops(), timed)


def _peer_cost(peer: Peer, cached: CachedCase, task: Measurement) -> Cost:
    """Time one pass over each of some windows of the brain's box, and extrapolate."""
    geometry = cached.prepared.geometry
    windows = peer.windows(geometry.inner_shape)
    images = _crops(cached, windows, peer.roi, task.windows)
    mask = torch.randn(1, peer.channels - images[0].shape[1], *(peer.roi,) * 3)
    network, encoder = peer.network().eval(), peer.encoder().eval() if peer.encoder else None
    with torch.autocast("cpu", torch.bfloat16, enabled=task.config.network.precision == "bf16"):
        timed, flops = _passes(network, [torch.cat([image, mask], 1) for image in images])
        encoded, encoding_flops = _passes(encoder, images) if encoder else ([0.0], 0)
    a_pass, encoding = statistics.median(timed), statistics.median(encoded)
    return Cost(
        seconds=peer.of_volume(len(windows), a_pass, encoding),
        flops=peer.of_volume(len(windows), flops, encoding_flops),
        timed=timed,
        windows=len(windows),
        passes=peer.passes,
        encoding_s=encoding,
        whole_s=peer.of_volume(len(peer.windows(geometry.shape)), a_pass, encoding),
        extrapolated=len(timed) < len(windows) * peer.passes,
    )


def _crops(cached: CachedCase, windows: Sequence[tuple[slice, ...]], roi: int, count: int) -> list[torch.Tensor]:
    """Return the image in at most `count` windows spread over the brain's box, each (1, 4, roi, roi, roi)."""
    geometry = cached.prepared.geometry
    starts, shape = geometry.pad_before, geometry.inner_shape
    inner = tuple(slice(start, start + n) for start, n in zip(starts, shape, strict=True))
    box = torch.from_numpy(cached.prepared.image[(slice(None), *inner)].astype("float32"))
    missing = [max(roi - n, 0) for n in shape]
    padded = F.pad(box, [p for m in reversed(missing) for p in (m // 2, m - m // 2)])
    count = min(count, len(windows))
    return [padded[(slice(None), *windows[i * len(windows) // count])][None] for i in range(count)]


def _passes(network: nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[list[float], int]:
    """Return the seconds of a pass over each input, and the FLOPs of one, counted in the warm-up pass."""
    with FlopCounterMode(display=False) as counter:
        network(inputs[0])
    return [seconds_of(partial(network, x)) for x in inputs], counter.get_total_flops()


def ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the ratio of each peer's time to that of the refined mask, by precision, if both were measured."""
    seconds = {(row["method"], row["precision"]): row["seconds"] for row in rows}
    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    compared = []
    for own in ("refined", "refined-all", "refined-1"):
        for peer in PEERS:
            both = [p for p in precisions if (own, p) in seconds and (peer, p) in seconds]
            if both:
                compared.append({"own": own, "peer": peer, **{p: seconds[peer, p] / seconds[own, p] for p in both}})
    return compared


def _methods(only: str) -> list[str]:
    known = [*_OURS, *PEERS]
    methods = [name.strip() for name in only.split(",")]
    unknown = [name for name in methods if name not in known]
    if unknown:
        raise ConfigError(f"--only: {unknown[0]!r} is not one of {', '.join(known)}")
    for name in methods:
        if name in PEERS:
            PEERS[name].network()  # report a missing optional package now, not in an hour
    return methods


def _phantom(seed: int) -> Case:
    folder = write_phantom_hospital(Cache().phantoms, "contrast", 0, 1, 1.0, seed)
    return find_cases(folder, get_release(phantom_hospital("contrast", 0).release))[0]


def _real(folder: Path, release: str) -> Case:
    folder = folder.resolve()
    return find_cases(folder.parent, get_release(release), (folder.name,))[0]


def _prepared(case: Case, release: str, config: Settings) -> CachedCase:
    return cached_cases([case], config.data.grid, config.data.spacing_mm, Cache().prepared)[0]


def _print(console: Console, report: dict[str, Any]) -> None:
    view, box = ("×".join(map(str, report[name])) for name in ("field of view", "brain's box"))
    about = report["machine"]
    table = Table(
        "method", "precision", "seconds", "TFLOPs", "peak MiB", "how",
        title=f"One volume of {view}, brain's box {box}: {report['data']}, {report['case']}, seed {report['seed']}; "
        f"{about['cpu']}, {about['threads']} of {about['cores']} cores, torch {about['torch']}",
    )  # fmt: skip
    for row in report["rows"]:
        peer = PEERS.get(row["method"])
        if peer is None:
            how = f"median of {len(row['timed'])}"
        else:
            how = f"{row['windows']} windows × {row['passes']}; {row['whole_s']:.0f} s for all {view}"
            how += f"; extrapolated from {len(row['timed'])} passes" if row["extrapolated"] else ""
        table.add_row(
            peer.title if peer else _title(row["method"], report["config"]), row["precision"],
            f"{row['seconds']:.1f}", f"{row['flops'] / 1e12:.2f}", f"{row['peak_mib']:.0f}", how,
        )  # fmt: skip
    print_table(console, table)
    for each in report["ratios"]:
        own = _title(each["own"], report["config"])
        same = ", ".join(f"{each[precision]:.1f} in {precision}" for precision in _PRECISIONS if precision in each)
        console.print(f"Time of {PEERS[each['peer']].title} relative to the {own}: {same}")
    console.print(
        "Weights are untrained. They affect only which slices are refined; here these are the slices with true tumour, "
        "as if the coarse network were perfect. All methods crop to the brain. Times exclude reading, cropping and "
        "normalisation, which are the same for all, and the peers' blending of windows and arithmetic between passes; "
        "the peers' peak memory excludes the blended volume."
    )


def _title(method: str, config: dict[str, Any]) -> str:
    return (
        f"{_OURS[method]}, K = {config['scoring']['sampling_steps']}"
        if method in ("refined", "refined-all")
        else _OURS[method]
    )

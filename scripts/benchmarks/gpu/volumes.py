"""A whole volume at 1 mm on a device, with this project's networks and its peers', and a peer's training step."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from fedserdiff.device import compute_repeatably
from fedserdiff.diffusion.inference import predict_volume
from fedserdiff.diffusion.losses import dice_bce_with_logits
from fedserdiff.diffusion.precision import autocast
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.experiments.random_hospital import random_hospital
from fedserdiff.seeding import generator
from fedserdiff.threads import use_cpus

from benchmarks.gpu.bench import Bench, Part, Row, in_ms
from benchmarks.peer_networks import PEERS, Peer

_METHOD = "ser-diff-plus"
_BATCH = 2  # nnU-Net's batch size as planned for BraTS


def _own(bench: Bench, of: str, what: str) -> Iterator[Row]:
    """Time predictions of a volume with untrained networks, which refine every slice."""
    config = bench.config(of, _METHOD)
    use_cpus(config.machine.cpus_per_site)
    image, student = random_hospital(config).test[0].prepared.image, new_student(config).to(bench.device)
    steps = config.scoring.sampling_steps
    bench.watch()
    timed = bench.timed(lambda: predict_volume(student, image, steps, generator(bench.seed, "noise")))
    how = f"{'×'.join(map(str, config.data.grid))}, K = {steps}, all of it refined"
    yield Row(f"a volume: {what}", "s", timed, how, bench.peak_gib())


def _peer_volume(bench: Bench, name: str) -> Iterator[Row]:
    """Time passes over one window of a peer, and extrapolate."""
    peer = _sized(bench, PEERS[name])
    config = bench.config("paper", _METHOD)
    windows = len(peer.windows(random_hospital(config).test[0].prepared.geometry.inner_shape))
    network = peer.network().eval().to(bench.device)
    encoder = peer.encoder().eval().to(bench.device) if peer.encoder else None
    x = torch.randn(1, peer.channels, *(peer.roi,) * 3, device=bench.device)
    image = x[:, : len(config.data.modalities)]
    bench.watch()
    with torch.inference_mode(), _as_peers_run(), autocast(config.network.precision, bench.device):
        encoding = statistics.median(bench.timed(lambda: encoder(image))) if encoder else 0.0
        passes = bench.timed(lambda: network(x))
    how = f"{windows} windows of {peer.roi}³ × {peer.passes} passes, extrapolated from one; without blending"
    volumes = tuple(peer.of_volume(windows, one, encoding) for one in passes)
    yield Row(f"a volume: {peer.title}", "s", volumes, how, bench.peak_gib())


def _peer_step(bench: Bench, name: str) -> Iterator[Row]:
    """Time a training step of a peer's network, with Dice and cross-entropy as in this project."""
    peer = _sized(bench, PEERS[name])
    edge = peer.roi
    network = peer.network().train().to(bench.device)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True)
    config = bench.config("paper", _METHOD)
    x = torch.randn(_BATCH, peer.channels, *(edge,) * 3, device=bench.device)
    truth = (torch.rand(_BATCH, len(config.data.regions), *(edge,) * 3, device=bench.device) < 0.1).float()

    def step() -> None:
        optimizer.zero_grad()
        with autocast(config.network.precision, bench.device):
            logits = network(x)
        dice_bce_with_logits(logits.float(), truth).backward()
        optimizer.step()

    bench.watch()
    with _as_peers_run():
        timed = bench.timed(step)
    yield Row(f"a training step: {peer.title}", "ms", in_ms(timed), f"batch {_BATCH} of {edge}³", bench.peak_gib())


def _sized(bench: Bench, peer: Peer) -> Peer:
    return peer if bench.size.whole_windows else replace(peer, roi=peer.least)


@contextmanager
def _as_peers_run() -> Iterator[None]:
    """Let cuDNN pick its fastest algorithms, as nnU-Net does, instead of repeatable ones as in this project."""
    torch.use_deterministic_algorithms(False)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False):
            yield
    finally:
        compute_repeatably()


VOLUMES = (
    Part("paper's volume", 10, lambda bench: _own(bench, "paper", "paper's networks")),
    Part("laptop's volume", 10, lambda bench: _own(bench, "slices", "laptop's networks, slice by slice")),
    Part("nnU-Net's volume", 6, lambda bench: _peer_volume(bench, "nnunet")),
    Part("SegResNet's volume", 6, lambda bench: _peer_volume(bench, "segresnet")),
    Part("Diff-UNet's volume", 8, lambda bench: _peer_volume(bench, "diff-unet")),
    Part("nnU-Net's training step", 8, lambda bench: _peer_step(bench, "nnunet")),
    Part("SegResNet's training step", 8, lambda bench: _peer_step(bench, "segresnet")),
)

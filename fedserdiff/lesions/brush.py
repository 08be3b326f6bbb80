"""Brushes: random parameters of painted lesions (size, classes, intensities), drawn from hospitals' moments."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fedserdiff.device import to_device
from fedserdiff.lesions.moments import LesionMoments

_SMOOTH_MM = 8.0  # spacing of the points between which border noise is interpolated (our choice)
_RIDGE = 0.02  # share of the mean variance added to a covariance: moments of few patients are degenerate
_WIDEST = 0.3  # largest radius of a lesion in healthy tissue, as a share of the grid's shortest side


@dataclass(frozen=True)
class Brush:
    """Parameters for painting N samples with R regions and M modalities, on the samples' device.

    Attributes
    ----------
    means : Tensor of shape (N, R, M)
        Mean intensity of each class, relative to healthy tissue as in `LesionMoments`.
    colours : Tensor of shape (N, R, M, M)
        Lower triangular matrices that give white noise the covariance of the class.
    begin, end : Tensor of shape (N, R)
        Range of each class, as shares of the lesion counted from its rim inwards; equal if the class is absent.
    inside : Tensor of shape (N, R, R)
        1 if the row's region lies inside the column's.
    radius : Tensor of shape (N,)
        Radius in voxels of a lesion in healthy tissue.
    rim, place : Tensor of shape (N, *grid)
        Smooth noise of unit variance for borders, and noise that picks the position of a lesion in healthy tissue.
    """

    means: torch.Tensor
    colours: torch.Tensor
    begin: torch.Tensor
    end: torch.Tensor
    inside: torch.Tensor
    radius: torch.Tensor
    rim: torch.Tensor
    place: torch.Tensor


class Painter:
    """A source of random brushes, drawn from the moments of earlier hospitals.

    Parameters
    ----------
    moments : mapping of str to Tensor
        `LesionMoments` of H hospitals by name, of shapes (H, …).
    spacing_mm : float
        Voxel size of the samples in mm.
    """

    def __init__(self, moments: Mapping[str, torch.Tensor], spacing_mm: float) -> None:
        self._moments = {name: moments[name].float().cpu() for name in LesionMoments.names()}
        self._patients = self._moments["patients"][:, 0]
        self._spacing_mm = spacing_mm

    @property
    def earlier_patients(self) -> float:
        """Total number of patients that hospitals reported; 0 if none has a lesion to paint."""
        return float(self._patients.sum())

    def draw(self, shape: Sequence[int], draws: torch.Generator, noise: torch.Generator) -> Brush:
        """Draw a brush for images of `shape` (N, M, *grid); hospitals are weighted by their number of patients.

        Parameters
        ----------
        shape : sequence of int
        draws : torch.Generator
            Generator on the host.
        noise : torch.Generator
            Generator on the samples' device.
        """
        count, grid = shape[0], shape[2:]
        whose = torch.multinomial(self._patients, count, replacement=True, generator=draws)
        of = {name: values[whose] for name, values in self._moments.items()}
        means = of["means"] + _correlated(of["between"], draws)
        begin, end = _layers(of["extent"], draws)
        mean, deviation = of["size"].unbind(1)
        radius = torch.exp(mean + deviation * torch.randn(count, generator=draws)) / self._spacing_mm
        radius = radius.clamp(2.0, max(2.0, _WIDEST * min(grid)))
        device = noise.device
        points = [max(2, math.ceil(n * self._spacing_mm / _SMOOTH_MM)) for n in grid]
        coarse = torch.randn((count, 1, *points), generator=noise, device=device)
        mode = "bilinear" if len(grid) == 2 else "trilinear"
        rim = F.interpolate(coarse, size=tuple(grid), mode=mode, align_corners=True)[:, 0]
        return Brush(
            means=to_device(means, device),
            colours=to_device(_lower(of["within"]), device),
            begin=to_device(begin, device),
            end=to_device(end, device),
            inside=to_device(of["inside"], device),
            radius=to_device(radius, device),
            rim=rim / rim.flatten(1).std(1).clamp(min=1e-3).reshape(-1, *[1] * len(grid)),
            place=torch.rand((count, *grid), generator=noise, device=device),
        )


def whitening(within: torch.Tensor) -> torch.Tensor:
    """Return the matrices L⁻¹ that whiten textures with covariances (R, M, M); L Lᵀ is a covariance plus a ridge.

    A class without a known covariance gets the identity: its texture does not change.
    """
    lower = _lower(within)
    known = lower.diagonal(dim1=-2, dim2=-1).sum(-1) > 0
    white: torch.Tensor = torch.linalg.inv(torch.where(known[:, None, None], lower, torch.eye(within.shape[-1])))
    return white


def _correlated(covariance: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    """Draw normal vectors (N, R, M) with covariances (N, R, M, M)."""
    normal = torch.randn(covariance.shape[:-1], generator=draws)
    return (_lower(covariance) @ normal[..., None])[..., 0]


def _lower(covariance: torch.Tensor) -> torch.Tensor:
    """Return lower triangular L, where L Lᵀ is a covariance plus a ridge; L is 0 for a covariance of 0."""
    size = covariance.shape[-1]
    symmetric = (covariance + covariance.transpose(-1, -2)) / 2
    variance = symmetric.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=0)
    values, vectors = torch.linalg.eigh(symmetric)  # received covariances need not be positive definite
    floor = (_RIDGE * variance + 1e-6)[..., None]
    mended = (vectors * torch.maximum(values, floor)[..., None, :]) @ vectors.transpose(-1, -2)
    lower = torch.linalg.cholesky(mended + 1e-6 * torch.eye(size))
    scaled: torch.Tensor = lower * (variance > 0)[..., None, None]
    return scaled


def _layers(extent: torch.Tensor, draws: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a lesion's classes and return the range of each (N, R), as shares of the lesion from the rim inwards.

    A lesion that would have no class gets the most common one.
    """
    share, mean, deviation, depth = extent.unbind(-1)
    there = torch.rand(share.shape, generator=draws) < share
    commonest = F.one_hot(share.argmax(1), share.shape[1]).bool()
    there |= commonest & ~there.any(1, keepdim=True)
    parts = torch.exp(mean + deviation * torch.randn(mean.shape, generator=draws)) * there
    parts = parts / parts.sum(1, keepdim=True)
    order = torch.where(there, depth, 2 + depth).argsort(1)  # absent classes last; they are empty anyway
    end = torch.zeros_like(parts).scatter(1, order, parts.gather(1, order).cumsum(1))
    return end - parts, end

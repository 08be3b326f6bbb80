"""What paints lesions, drawn from other hospitals' moments: whose, how large, of what classes, and how they look."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fedserdiff.device import to_device
from fedserdiff.lesions.moments import LesionMoments

_SMOOTH_MM = 8.0  # distance of the points between which a border's noise is interpolated (our choice)
_RIDGE = 0.02  # of a covariance's mean variance, added to it: moments of few patients are degenerate
_WIDEST = 0.3  # of the grid's shortest side, the largest radius of a lesion in healthy tissue


@dataclass(frozen=True)
class Brush:
    """Parameters of N painted samples of R regions and M modalities, on the samples' device.

    Attributes
    ----------
    means : Tensor of shape (N, R, M)
        Of each class, relative to healthy tissue as `LesionMoments` has it.
    colours : Tensor of shape (N, R, M, M)
        Lower triangles by which white noise gets the class's covariance.
    begin, end : Tensor of shape (N, R)
        From and to which share of the lesion, counted from its rim inwards, a class lies; equal where it is absent.
    inside : Tensor of shape (N, R, R)
        1 where the row's region lies inside the column's.
    radius : Tensor of shape (N,)
        Of a lesion in healthy tissue, in voxels.
    rim, place : Tensor of shape (N, *grid)
        Smooth noise of unit variance for borders; and noise that decides where in healthy tissue a lesion lies.
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
    """Draws brushes from the moments of the hospitals that came before.

    Parameters
    ----------
    moments : mapping of str to Tensor
        `LesionMoments` by name, of H hospitals: shapes (H, …).
    spacing_mm : float
        Voxel size of the samples.
    """

    def __init__(self, moments: Mapping[str, torch.Tensor], spacing_mm: float) -> None:
        self._moments = {name: moments[name].float().cpu() for name in LesionMoments.names()}
        self._patients = self._moments["patients"][:, 0]
        self._spacing_mm = spacing_mm

    @property
    def earlier_patients(self) -> float:
        """Of all hospitals together, as they told them: 0 where none has a lesion to paint."""
        return float(self._patients.sum())

    def draw(self, shape: Sequence[int], draws: torch.Generator, noise: torch.Generator) -> Brush:
        """Draw a brush for images of `shape` (N, M, *grid): hospitals by the number of their patients.

        Parameters
        ----------
        shape : sequence of int
        draws : torch.Generator
            On the host.
        noise : torch.Generator
            On the samples' device.
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
    """Return what makes white noise of textures of covariances (R, M, M): L⁻¹, with L Lᵀ one and a ridge.

    A class of which nothing is known has 1: its texture stays as it is.
    """
    lower = _lower(within)
    known = lower.diagonal(dim1=-2, dim2=-1).sum(-1) > 0
    white: torch.Tensor = torch.linalg.inv(torch.where(known[:, None, None], lower, torch.eye(within.shape[-1])))
    return white


def _correlated(covariance: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    """Draw vectors (N, R, M) of covariances (N, R, M, M)."""
    normal = torch.randn(covariance.shape[:-1], generator=draws)
    return (_lower(covariance) @ normal[..., None])[..., 0]


def _lower(covariance: torch.Tensor) -> torch.Tensor:
    """Return lower triangles L with L Lᵀ a covariance and a ridge; 0 where all of it is 0."""
    size = covariance.shape[-1]
    symmetric = (covariance + covariance.transpose(-1, -2)) / 2
    variance = symmetric.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=0)
    values, vectors = torch.linalg.eigh(symmetric)  # what was sent need not be positive definite
    floor = (_RIDGE * variance + 1e-6)[..., None]
    mended = (vectors * torch.maximum(values, floor)[..., None, :]) @ vectors.transpose(-1, -2)
    lower = torch.linalg.cholesky(mended + 1e-6 * torch.eye(size))
    scaled: torch.Tensor = lower * (variance > 0)[..., None, None]
    return scaled


def _layers(extent: torch.Tensor, draws: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw which classes (N, R) a lesion has, and return from and to which share of it each lies, from the rim in.

    A lesion that would have no class has the one that most patients have.
    """
    share, mean, deviation, depth = extent.unbind(-1)
    there = torch.rand(share.shape, generator=draws) < share
    commonest = F.one_hot(share.argmax(1), share.shape[1]).bool()
    there |= commonest & ~there.any(1, keepdim=True)
    parts = torch.exp(mean + deviation * torch.randn(mean.shape, generator=draws)) * there
    parts = parts / parts.sum(1, keepdim=True)
    order = torch.where(there, depth, 2 + depth).argsort(1)  # absent ones last: they are empty anyway
    end = torch.zeros_like(parts).scatter(1, order, parts.gather(1, order).cumsum(1))
    return end - parts, end

"""The settings of augmentation: a probability and a range for each transform."""

from typing import Annotated, Literal

from pydantic import AfterValidator

from fedserdiff.settings.declaration import Group, setting

Strength = Literal["off", "on", "strong"]


def _not_negative(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= values[0] <= values[1]:
        raise ValueError("a list of 2 numbers of at least 0, the smaller one first")
    return values


def _positive(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 < values[0] <= values[1]:
        raise ValueError("a list of 2 numbers of more than 0, the smaller one first")
    return values


def _shares(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 < values[0] <= values[1] <= 1:
        raise ValueError("a list of 2 numbers of more than 0 and at most 1, the smaller one first")
    return values


NotNegative = Annotated[tuple[float, float], AfterValidator(_not_negative)]
Positive = Annotated[tuple[float, float], AfterValidator(_positive)]
Shares = Annotated[tuple[float, float], AfterValidator(_shares)]


class Augmentation(Group):
    """How training batches are changed at random. Defaults are nnU-Net's, but for `strength` and its 2D rotation."""

    strength: Strength = setting(
        "off",
        "`off` mirrors alone; `on` does what the settings below say; `strong` has 1.5 times their probabilities, and "
        "ranges 1.5 times as wide.",
    )
    mirroring: float = setting(
        0.5, "Probability that a batch is flipped left to right, whatever the strength.", ge=0, le=1
    )
    rotation: float = setting(0.2, "Probability that a sample is rotated: in 3D about each axis.", ge=0, le=1)
    rotation_degrees: float = setting(30.0, "The most degrees that it is rotated by, either way.", ge=0, le=180)
    scaling: float = setting(0.2, "Probability that a sample is scaled, all axes alike.", ge=0, le=1)
    scaling_range: Positive = setting((0.7, 1.4), "By which factors; above 1 it is larger.")
    elastic: float = setting(0.0, "Probability that a sample is deformed smoothly.", ge=0, le=1)
    elastic_mm: float = setting(
        8.0, "The most that a control point moves what is shown, along each axis, in mm of `data.spacing_mm`.", ge=0
    )
    elastic_every_mm: float = setting(
        32.0,
        "Distance of control points, or a little more: 2.5 times `elastic_mm` or more, so that nothing folds.",
        gt=0,
    )
    noise: float = setting(0.1, "Probability that a sample has Gaussian noise added.", ge=0, le=1)
    noise_range: NotNegative = setting((0.0, 0.1), "Its standard deviation, which nnU-Net's code calls a variance.")
    blur: float = setting(
        0.2, "Probability that a sample is blurred, each of its channels by a chance of 0.5.", ge=0, le=1
    )
    blur_range: Positive = setting((0.5, 1.0), "Standard deviation of the Gaussian, in voxels, a channel's own.")
    brightness: float = setting(0.15, "Probability that a sample's channels are multiplied by factors.", ge=0, le=1)
    brightness_range: Positive = setting((0.75, 1.25), "By which factors, a channel's own.")
    contrast: float = setting(
        0.15, "Probability that a sample's channels are stretched about their mean, within their range.", ge=0, le=1
    )
    contrast_range: Positive = setting((0.75, 1.25), "By which factors, a channel's own.")
    low_resolution: float = setting(
        0.25,
        "Probability that a sample has fewer voxels for a while, each of its channels by a chance of 0.5.",
        ge=0,
        le=1,
    )
    low_resolution_range: Shares = setting((0.5, 1.0), "What share of the voxels of each axis, a channel's own.")
    inverted_gamma: float = setting(
        0.1,
        "Probability that a sample's channels take a power of their negative; such a sample has no other.",
        ge=0,
        le=1,
    )
    gamma: float = setting(
        0.3, "Probability that a sample's channels take a power, mean and deviation kept.", ge=0, le=1
    )
    gamma_range: Positive = setting((0.7, 1.5), "Which powers, of either kind, a channel's own.")
    missing_modality: float = setting(
        0.0, "Probability that a sample lacks one modality, any but the only one: it is 0 there.", ge=0, le=1
    )

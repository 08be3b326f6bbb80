"""Augmentation settings: a probability and a range for each transform."""

from typing import Annotated, Literal

from pydantic import AfterValidator

from fedserdiff.settings.declaration import Group, setting

Strength = Literal["off", "on", "strong"]


def _not_negative(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= values[0] <= values[1]:
        raise ValueError("a list of 2 numbers, each at least 0, the smaller one first")
    return values


def _positive(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 < values[0] <= values[1]:
        raise ValueError("a list of 2 numbers, each more than 0, the smaller one first")
    return values


def _shares(values: tuple[float, float]) -> tuple[float, float]:
    if not 0 < values[0] <= values[1] <= 1:
        raise ValueError("a list of 2 numbers, each more than 0 and at most 1, the smaller one first")
    return values


NotNegative = Annotated[tuple[float, float], AfterValidator(_not_negative)]
Positive = Annotated[tuple[float, float], AfterValidator(_positive)]
Shares = Annotated[tuple[float, float], AfterValidator(_shares)]


class Augmentation(Group):
    """Random changes to training batches. Defaults are nnU-Net's, except for `strength` and the 2D rotation."""

    strength: Strength = setting(
        "off",
        "How much augmentation to apply. `off` only mirrors; `on` follows the settings below; `strong` uses 1.5 "
        "times their probabilities and ranges 1.5 times as wide.",
    )
    mirroring: float = setting(0.5, "Probability that a batch is flipped left to right, at every strength.", ge=0, le=1)
    rotation: float = setting(
        0.2, "Probability that a sample is rotated; in 3D it applies to each axis separately.", ge=0, le=1
    )
    rotation_degrees: float = setting(30.0, "Largest rotation angle in degrees, in either direction.", ge=0, le=180)
    scaling: float = setting(0.2, "Probability that a sample is scaled, by the same factor along all axes.", ge=0, le=1)
    scaling_range: Positive = setting((0.7, 1.4), "Range of the scaling factor; above 1 the image is enlarged.")
    elastic: float = setting(0.0, "Probability that a sample is deformed elastically.", ge=0, le=1)
    elastic_mm: float = setting(
        8.0, "Largest displacement of a control point along each axis, in mm of `data.spacing_mm`.", ge=0
    )
    elastic_every_mm: float = setting(
        32.0,
        "Smallest distance between control points in mm; the actual distance may be slightly larger. It must be at "
        "least 2.5 times `elastic_mm`, so that the deformation does not fold.",
        gt=0,
    )
    noise: float = setting(0.1, "Probability that Gaussian noise is added to a sample.", ge=0, le=1)
    noise_range: NotNegative = setting(
        (0.0, 0.1), "Range of the noise's standard deviation, which nnU-Net's code calls a variance."
    )
    blur: float = setting(
        0.2, "Probability that a sample is blurred; each of its channels then has a chance of 0.5.", ge=0, le=1
    )
    blur_range: Positive = setting(
        (0.5, 1.0), "Range of the Gaussian's standard deviation in voxels, drawn for each channel."
    )
    brightness: float = setting(0.15, "Probability that a sample's channels are multiplied by a factor.", ge=0, le=1)
    brightness_range: Positive = setting((0.75, 1.25), "Range of the factor, drawn for each channel.")
    contrast: float = setting(
        0.15,
        "Probability that a sample's channels are stretched about their mean and clipped to their original range.",
        ge=0,
        le=1,
    )
    contrast_range: Positive = setting((0.75, 1.25), "Range of the factor, drawn for each channel.")
    low_resolution: float = setting(
        0.25,
        "Probability that a sample is downsampled and upsampled again; each of its channels then has a chance of 0.5.",
        ge=0,
        le=1,
    )
    low_resolution_range: Shares = setting(
        (0.5, 1.0), "Range of the share of voxels kept along each axis, drawn for each channel."
    )
    inverted_gamma: float = setting(
        0.1,
        "Probability of a gamma transform of a sample's inverted channels. The sample then gets no other gamma "
        "transform.",
        ge=0,
        le=1,
    )
    gamma: float = setting(
        0.3,
        "Probability of a gamma transform of a sample's channels; mean and standard deviation are kept.",
        ge=0,
        le=1,
    )
    gamma_range: Positive = setting(
        (0.7, 1.5), "Range of gamma for both kinds of gamma transform, drawn for each channel."
    )
    missing_modality: float = setting(
        0.0, "Probability that one modality of a sample, never the only one, is set to 0.", ge=0, le=1
    )

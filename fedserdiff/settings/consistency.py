"""Checks of settings that must fit each other. Each check raises a ValueError that begins with the settings' names."""

from fedserdiff.methods import get_method, is_foreign
from fedserdiff.methods.method import MethodSettings
from fedserdiff.networks import UNET
from fedserdiff.settings.augmentation import Augmentation
from fedserdiff.settings.groups import Data, Network, Privacy
from fedserdiff.settings.scoring import Scoring
from fedserdiff.settings.training import Training, rounds_of

_COVERED = frozenset({"error-maps"})
"""Records a method may hand over when noise on weights must cover all that hospitals reveal about patients."""

_NO_FOLDS = 0.4


def check_length(training: Training, method: MethodSettings) -> None:
    """Check that a stage's length is given once and that every round of the stage trains."""
    steps, epochs = training.steps_per_stage, training.epochs_per_stage
    if (steps == 0) == (epochs == 0):
        raise ValueError(
            "training.steps_per_stage, training.epochs_per_stage: set one of them and leave the other at 0"
        )
    if training.balance_epochs and not epochs:
        raise ValueError("training.balance_epochs: a stage counted in steps is already balanced; leave it false")
    named, rounds = rounds_of(training, method)
    if rounds > (steps or epochs):
        raise ValueError(
            f"{named}: {rounds} is more than the stage has steps or epochs, so a round would train nothing; lower it"
        )


def check_validation(training: Training) -> None:
    """Check that validation runs if a setting depends on it."""
    needy = [
        f"training.{name}"
        for name, asked in (("keep", training.keep == "best"), ("patience", training.patience > 0))
        if asked
    ]
    if needy and not training.validate_every:
        raise ValueError(
            f"{', '.join(needy)}: need{'s' if len(needy) == 1 else ''} the Dice of validation patients during "
            "training: set training.validate_every, and data.validation_share or each site's validation_cases"
        )


def check_deformation(augmentation: Augmentation) -> None:
    """Check that an elastic deformation cannot fold: control points move by at most 0.4 of their distance.

    This bound is sufficient for cubic B-splines in 3D (Choi and Lee, 2000: 0.403).
    """
    most, apart = augmentation.elastic_mm, augmentation.elastic_every_mm
    if most > _NO_FOLDS * apart:
        raise ValueError(
            f"augmentation.elastic_mm: {most:g} is more than {_NO_FOLDS:g} of augmentation.elastic_every_mm, "
            f"{apart:g}, so the deformation could fold"
        )


def check_patch(data: Data, training: Training) -> None:
    """Check that a patch has one length for each convolved axis and fits into the grid."""
    patch, axes = training.patch, data.grid[: data.spatial_dims]
    if patch and len(patch) != len(axes):
        raise ValueError(
            f"training.patch: {patch} has {len(patch)} axes, and data.spatial_dims = {data.spatial_dims} needs "
            f"{len(axes)}"
        )
    if any(own > whole for own, whole in zip(patch, axes, strict=False)):
        raise ValueError(f"training.patch: {patch} does not fit into data.grid, {data.grid}")


def check_grid(data: Data, network: Network, training: Training) -> None:
    """Check that the networks' input can be halved at each of their levels, where settings define the levels."""
    name, shown = ("training.patch", training.patch) if training.patch else ("data.grid", data.grid)
    fields = ("coarse_channels", "refiner_channels") if network.coarse == UNET else ("refiner_channels",)
    for field in fields:
        levels = len(getattr(network, field))
        factor = network.stem_factor * 2 ** (levels - 1)
        if any(n % factor for n in shown[: data.spatial_dims]):
            raise ValueError(
                f"{name}: {shown} is not a multiple of {factor}, which the {levels} levels of network.{field} "
                f"behind network.stem_factor = {network.stem_factor} need"
            )


def check_shares(data: Data) -> None:
    """Check that the test and validation splits leave patients to train on."""
    if data.test_share + data.validation_share >= 1:
        raise ValueError(
            f"data.test_share, data.validation_share: {data.test_share:g} and {data.validation_share:g} leave no "
            "patients to train on"
        )


def check_thresholds(scoring: Scoring, data: Data) -> None:
    """Check that size thresholds name known regions, have one source, and are not chosen on the scored patients."""
    given = "scoring.least_ml" if scoring.least_ml else "scoring.least_et_ml" if scoring.least_et_ml else ""
    if scoring.least_ml and len(scoring.least_ml) != len(data.regions):
        raise ValueError(
            f"scoring.least_ml: {len(scoring.least_ml)} values for the {len(data.regions)} regions of data.regions"
        )
    if scoring.least_et_ml and "et" not in data.regions:
        raise ValueError("scoring.least_et_ml: data.regions has no et; leave it at 0")
    if scoring.least_from == "validation":
        if given:
            raise ValueError(f"{given}: scoring.least_from = validation chooses it; set only one of them")
        if scoring.patients == "validation":
            raise ValueError(
                "scoring.least_from: thresholds may not be chosen on the validation patients while scoring.patients = "
                "validation scores them"
            )


def check_noise(privacy: Privacy, method: MethodSettings) -> None:
    """Check that noise on weight changes covers everything that hospitals reveal about their training patients."""
    if privacy.dp_noise == 0:
        return
    about = get_method(method.name)
    foreign = any(part.hands_over and is_foreign(part.name) for part in about.parts)
    if about.breaks_privacy or foreign or not _COVERED.issuperset(about.hands_over_all):
        raise ValueError(
            f"privacy.dp_noise: {method.name} shares more about its patients than the noise on weights covers; "
            "choose a method that shares only weights, such as fine-tune or ser-diff-plus"
        )
    if getattr(method, "shared_error_maps", "none") == "mri":
        raise ValueError(
            "privacy.dp_noise: the noise on weights does not cover error maps made from scans "
            "(method.shared_error_maps = mri)"
        )

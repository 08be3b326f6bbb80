"""Settings that have to fit each other. Each check raises a ValueError whose text begins with their names."""

from fedserdiff.methods import get_method, is_foreign
from fedserdiff.methods.method import MethodSettings
from fedserdiff.networks import UNET
from fedserdiff.settings.augmentation import Augmentation
from fedserdiff.settings.groups import Data, Network, Privacy
from fedserdiff.settings.scoring import Scoring
from fedserdiff.settings.training import Training, rounds_of

_COVERED = frozenset({"error-maps"})
"""What a method may hand over where noise on weights is to cover all that hospitals tell of their patients."""

_NO_FOLDS = 0.4


def check_length(training: Training, method: MethodSettings) -> None:
    """See that a stage's length is given once, and that every round of it trains."""
    steps, epochs = training.steps_per_stage, training.epochs_per_stage
    if (steps == 0) == (epochs == 0):
        raise ValueError("training.steps_per_stage, training.epochs_per_stage: set one of them, and leave the other 0")
    if training.balance_epochs and not epochs:
        raise ValueError("training.balance_epochs: a stage counted in steps is balanced already: leave it false")
    named, rounds = rounds_of(training, method)
    if rounds > (steps or epochs):
        raise ValueError(f"{named}: {rounds} is more than a stage's steps: a round would train nothing")


def check_validation(training: Training) -> None:
    """See that a round which goes by its validations has some."""
    needy = [
        f"training.{name}"
        for name, asked in (("keep", training.keep == "best"), ("patience", training.patience > 0))
        if asked
    ]
    if needy and not training.validate_every:
        raise ValueError(
            f"{', '.join(needy)}: need{'s' if len(needy) == 1 else ''} validation patients' Dice while training: set "
            "training.validate_every, and data.validation_share or each site's validation_cases"
        )


def check_deformation(augmentation: Augmentation) -> None:
    """See that a smooth deformation folds nothing: control points move by 0.4 of their distance or less.

    That suffices for cubic B-splines in 3D (Choi and Lee, 2000: 0.403).
    """
    most, apart = augmentation.elastic_mm, augmentation.elastic_every_mm
    if most > _NO_FOLDS * apart:
        raise ValueError(
            f"augmentation.elastic_mm: {most:g} is more than {_NO_FOLDS:g} of augmentation.elastic_every_mm, "
            f"{apart:g}: what is shown would fold"
        )


def check_patch(data: Data, training: Training) -> None:
    """See that a patch has the axes that are convolved, and fits into the grid."""
    patch, axes = training.patch, data.grid[: data.spatial_dims]
    if patch and len(patch) != len(axes):
        raise ValueError(
            f"training.patch: {patch} has {len(patch)} axes, and data.spatial_dims = {data.spatial_dims} needs "
            f"{len(axes)}"
        )
    if any(own > whole for own, whole in zip(patch, axes, strict=False)):
        raise ValueError(f"training.patch: {patch} does not fit into data.grid, {data.grid}")


def check_grid(data: Data, network: Network, training: Training) -> None:
    """See that what networks see can be halved as often as they have levels, where settings say how often that is."""
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
    """See that patients are left to train on beside those to test on and those to choose settings by."""
    if data.test_share + data.validation_share >= 1:
        raise ValueError(
            f"data.test_share, data.validation_share: {data.test_share:g} and {data.validation_share:g} leave nobody "
            "to train on"
        )


def check_thresholds(scoring: Scoring, data: Data) -> None:
    """See that thresholds are of regions that there are, come from one place, and are not chosen on who is scored."""
    given = "scoring.least_ml" if scoring.least_ml else "scoring.least_et_ml" if scoring.least_et_ml else ""
    if scoring.least_ml and len(scoring.least_ml) != len(data.regions):
        raise ValueError(
            f"scoring.least_ml: {len(scoring.least_ml)} values for the {len(data.regions)} regions of data.regions"
        )
    if scoring.least_et_ml and "et" not in data.regions:
        raise ValueError("scoring.least_et_ml: data.regions has no et: leave it 0")
    if scoring.least_from == "validation":
        if given:
            raise ValueError(f"{given}: scoring.least_from = validation chooses it: set one of them")
        if scoring.patients == "validation":
            raise ValueError(
                "scoring.least_from: validation patients are scored (scoring.patients): nothing may be chosen on them"
            )


def check_noise(privacy: Privacy, method: MethodSettings) -> None:
    """See that noise on what rounds change covers all that hospitals tell of their training patients."""
    if privacy.dp_noise == 0:
        return
    about = get_method(method.name)
    foreign = any(part.hands_over and is_foreign(part.name) for part in about.parts)
    if about.breaks_privacy or foreign or not _COVERED.issuperset(about.hands_over_all):
        raise ValueError(
            f"privacy.dp_noise: {method.name} shares more of its patients than the noise on weights covers"
        )
    if getattr(method, "shared_error_maps", "none") == "mri":
        raise ValueError(
            "privacy.dp_noise: error maps made of scans (method.shared_error_maps = mri) are not covered by the noise "
            "on weights"
        )

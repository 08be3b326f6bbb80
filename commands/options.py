"""Options that several commands have, and the groups in which help texts show them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedserdiff.config import PROFILES, make_config
from fedserdiff.methods import METHODS, get_method

DATA, METHOD, PRIVACY, SCORING, RUNNING = "Data", "Method", "Privacy", "Scoring", "Running"

DEFAULTS = make_config("laptop")
"""What settings are where neither an option nor another profile says otherwise."""


def default_of(setting: str) -> str:
    """Return in words what a setting is where no option says otherwise, and in which profiles it is something else."""
    others = [f"{name}: {values[setting]}" for name, values in PROFILES.items() if setting in values]
    return "; ".join([f"{getattr(DEFAULTS, setting):g}", *others])


def idle_note(given: Mapping[str, Any], method: str) -> str | None:
    """Say which of the settings that were `given` a method makes no use of; None where it uses them all."""
    about = get_method(method)
    idle = {
        "--lambda": "lambda_kd" in given and about.terms == ("segmentation",),
        "--teacher": "teacher" in given and about.terms == ("segmentation",),
        "--shared-error-maps": "shared_error_maps" in given and about.hands_over != "error-maps",
        "--dp-clip": "dp_clip" in given and not given.get("dp_noise"),
    }
    options = ", ".join(option for option, unused in idle.items() if unused)
    return f"{options}: {method} as it is asked for makes no use of it" if options else None


PROFILE = typer.Option(
    help=f"Size of scans, networks and stages: {', '.join(PROFILES)}.", show_default="laptop", rich_help_panel=METHOD
)
DEPLOYABLE_METHOD = typer.Option(
    help=f"How the past is kept: {', '.join(name for name in METHODS if not METHODS[name].breaks_privacy)}.",
    rich_help_panel=METHOD,
)
SEED = typer.Option(
    help="Seeds everything: phantom patients, weights, batches, noise.", show_default="0", rich_help_panel=METHOD
)
ALLOW_OVERLAP = typer.Option(
    "--allow-overlap",
    help="Keep patients that an earlier site brought: the scores leak.",
    rich_help_panel=DATA,
)
SKIP_BAD = typer.Option(
    "--skip-bad",
    help="Leave out cases that cannot be used, saying which and why, instead of refusing them.",
    rich_help_panel=DATA,
)
GPUS_PER_SITE = typer.Option(
    help="GPUs for a site at work.", show_default="1 where this machine has one, else 0", rich_help_panel=RUNNING
)

Sites = Annotated[
    int | None,
    typer.Option(help="Number of phantom hospitals.", show_default="3 if no --federation", rich_help_panel=DATA),
]
FederationFile = Annotated[
    Path | None, typer.Option(help="TOML file that names hospitals with data of their own.", rich_help_panel=DATA)
]
ShowCases = Annotated[
    bool,
    typer.Option(
        "--show-cases",
        help="Write pictures of cases of your own data; phantoms' always are.",
        rich_help_panel=DATA,
    ),
]
Rounds = Annotated[
    int | None,
    typer.Option(
        help="Rounds of training and averaging a stage.",
        show_default=default_of("rounds"),
        rich_help_panel=METHOD,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Slices, or volumes in 3D, a step of training: fewer where a GPU's memory does not suffice.",
        show_default=default_of("batch_size"),
        rich_help_panel=METHOD,
    ),
]
Lambda = Annotated[
    float | None,
    typer.Option(
        "--lambda",
        help="λ, the weight of distillation against segmentation.",
        show_default=default_of("lambda_kd"),
        rich_help_panel=METHOD,
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="Whose student is frozen as the teacher: first (stage 1's, as in the paper) or latest.",
        show_default=DEFAULTS.teacher,
        rich_help_panel=METHOD,
    ),
]
Participation = Annotated[
    str | None,
    typer.Option(
        help="Who trains in a stage: arriving (the new site alone) or cumulative (all that have arrived).",
        show_default=DEFAULTS.participation,
        rich_help_panel=METHOD,
    ),
]
SharedErrorMaps = Annotated[
    str | None,
    typer.Option(
        help="Error maps that a hospital shares: null (no patient goes in), mri (made of its scans) or none.",
        show_default="as the method does",
        rich_help_panel=PRIVACY,
    ),
]
DpNoise = Annotated[
    float | None,
    typer.Option(
        help="Local differential privacy: noise on a round's change, as a multiple of its sensitivity; 0 is off.",
        show_default=default_of("dp_noise"),
        rich_help_panel=PRIVACY,
    ),
]
DpClip = Annotated[
    float | None,
    typer.Option(
        help="L2 norm to which the change is clipped then.",
        show_default=default_of("dp_clip"),
        rich_help_panel=PRIVACY,
    ),
]

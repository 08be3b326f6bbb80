"""The compared methods, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from fedserdiff.errors import ConfigError
from fedserdiff.settings.experiment import Settings
from sites.hospital import Hospital

from benchmarks.peers.budget import Budget
from benchmarks.peers.nnunet import require_nnunet, train_nnunet
from benchmarks.peers.ours import train_ours
from benchmarks.peers.segresnet import train_segresnet
from benchmarks.peers.trained import Trained

Train = Callable[[Hospital, Settings, Budget], Trained]


@dataclass(frozen=True)
class Method:
    """A method: its title in tables, its training, and a check that its packages are installed."""

    title: str
    train: Train
    require: Callable[[], None] = lambda: None
    is_ours: bool = False


PROFILE = "profile"
"""Our training with a profile's settings, without the changes of `--set`."""

METHODS: Mapping[str, Method] = {
    "ours": Method("ours, as set", train_ours, is_ours=True),
    PROFILE: Method("ours, as the profile has it", train_ours, is_ours=True),
    "nnunet-2d": Method("nnU-Net 2d", partial(train_nnunet, "2d"), require=require_nnunet),
    "nnunet-3d": Method("nnU-Net 3d_fullres", partial(train_nnunet, "3d_fullres"), require=require_nnunet),
    "segresnet": Method("SegResNet, MONAI's recipe", train_segresnet),
}


def chosen_methods(names: list[str]) -> list[str]:
    """Check the names of methods and return them.

    Raises
    ------
    ConfigError
        If a name is unknown, or a required package is not installed.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ConfigError(f"--methods: {', '.join(unknown)}: choose from {', '.join(METHODS)}")
    for name in names:
        METHODS[name].require()
    return names

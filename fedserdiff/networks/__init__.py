"""The coarse networks there are: those of `packaged`, and others' by entry point or by name of an object.

Any module that maps images (B, modalities, *grid) to logits (B, regions, *grid) can be the coarse network. The residual
diffusion behind it stays as it is. `fedserdiff.networks.coarse` builds one and sees that it can be used.
"""

from collections.abc import Mapping
from types import MappingProxyType

from fedserdiff import plugins

ENTRY_POINTS = "fedserdiff.networks"
"""The group of entry points by which an installed package brings networks, each a function like those of `packaged`."""

UNET = "unet"
"""The network that `network.coarse_channels` and `network.stem_factor` describe."""

NETWORKS: Mapping[str, str] = MappingProxyType(
    {
        UNET: "fedserdiff.networks.packaged:unet",
        "segresnet": "fedserdiff.networks.packaged:segresnet",
        "swin-unetr": "fedserdiff.networks.packaged:swin_unetr",
        "basic-unet": "fedserdiff.networks.packaged:basic_unet",
        "nnunet": "fedserdiff.networks.packaged:nnunet",
    }
)
"""The networks of this package by name, each the function that builds it: named, so that no name imports torch."""


def is_foreign(name: str) -> bool:
    """Say whether a network does not come with fedserdiff."""
    return plugins.is_foreign(name, ENTRY_POINTS, NETWORKS)


def names() -> list[str]:
    """Return the names of the networks of this package and of installed packages, none of them imported."""
    return list(dict.fromkeys((*NETWORKS, *plugins.installed(ENTRY_POINTS))))

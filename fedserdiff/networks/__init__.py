"""The coarse networks: those of `packaged`, and third-party ones by entry point or object name.

Any module that maps images (B, modalities, *grid) to logits (B, regions, *grid) can be the coarse network. The residual
diffusion behind it does not change. `fedserdiff.networks.coarse` builds a network and checks that it can be used.
"""

from collections.abc import Mapping
from types import MappingProxyType

from fedserdiff import plugins

ENTRY_POINTS = "fedserdiff.networks"
"""Group of entry points through which packages provide networks, each a function like those of `packaged`."""

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
"""The builder of each network of this package, as a name, so that this module does not import torch."""


def is_foreign(name: str) -> bool:
    """Return whether a network is third-party."""
    return plugins.is_foreign(name, ENTRY_POINTS, NETWORKS)


def names() -> list[str]:
    """Return the names of all networks, of this and of installed packages, without importing them."""
    return list(dict.fromkeys((*NETWORKS, *plugins.installed(ENTRY_POINTS))))

"""Colour and marker of each method, the same in every chart of every report."""

import zlib
from functools import cache

from fedserdiff.methods import METHODS

# Okabe and Ito's colours, distinct for any colour vision, without the yellow, which is faint on white paper.
LOOKS = {
    "ser-diff-plus": ("#332288", ">"),
    "ser-diff": ("#d55e00", "o"),
    "fine-tune": ("#0072b2", "s"),
    "distill": ("#009e73", "^"),
    "ewc": ("#cc79a7", "v"),
    "rehearsal": ("#e69f00", "D"),
    "lesion-replay": ("#117733", "h"),
    "image-replay": ("#56b4e9", "P"),
    "pooled": ("#000000", "X"),
    "local": ("#777777", "<"),
}
"""Colour and marker by method name."""

# There may be more methods than distinct colours; markers and names beside lines tell them apart.
_SPARE = (
    ("#882255", "h"), ("#999933", "p"), ("#661100", "*"), ("#44aa99", "d"), ("#aa4499", "H"), ("#b15928", "8"),
    ("#5566dd", "X"), ("#6b8e23", "P"), ("#c04040", "<"), ("#2f6f7f", ">"), ("#8a6d9e", "s"), ("#3d3d00", "^"),
)  # fmt: skip


def look(name: str) -> tuple[str, str]:
    """Return the colour and marker of a method; two third-party methods may look the same."""
    return LOOKS.get(name) or _spare().get(name) or _SPARE[zlib.crc32(name.encode()) % len(_SPARE)]


@cache
def _spare() -> dict[str, tuple[str, str]]:
    """Return colours and markers of the methods that `LOOKS` lacks, the package's own before installed ones."""
    return dict(zip((name for name in METHODS if name not in LOOKS), _SPARE, strict=False))

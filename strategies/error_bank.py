"""The synthetic error maps that the coordinator keeps."""

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from fedserdiff import wire
from fedserdiff.errors import FederationError


class ErrorBank:
    """Error maps by the site that shared them. A site that shares again replaces what it shared before.

    Parameters
    ----------
    shape : tuple of int
        Shape of one map, (3, *grid).
    limit : int
        Most maps that one site may share at a time.
    """

    def __init__(self, shape: tuple[int, ...], limit: int) -> None:
        self._shape = shape
        self._limit = limit
        self._maps: dict[str, NDArray[np.int8]] = {}

    def __len__(self) -> int:
        return sum(len(maps) for maps in self._maps.values())

    def add(self, site: str, record: ArrayRecord) -> None:
        """Keep a site's maps.

        Raises
        ------
        FederationError
            Where they are not int8, not of the agreed shape or too many.
        """
        maps = wire.map_levels(record)
        if maps.shape[1:] != self._shape or not 0 < len(maps) <= self._limit:
            raise FederationError(
                f"{site} shared error maps of shape {maps.shape}; at most {self._limit} of shape "
                f"{self._shape} were agreed"
            )
        self._maps[site] = maps

    def to_record(self) -> ArrayRecord:
        """Return all maps, sites in order of their first sharing."""
        return wire.levels_to_record(np.concatenate(list(self._maps.values())))

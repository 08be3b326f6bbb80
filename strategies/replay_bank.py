"""The synthetic samples that the coordinator keeps: error maps, or whole images with masks."""

from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedserdiff.errors import FederationError


class ReplayBank:
    """Samples by the site that shared them. A site that shares again replaces what it shared before.

    Parameters
    ----------
    arrays : mapping
        Type and shape of one sample in each array of a record, such as ``{"maps": ("int8", (3, 48, 64))}``.
    limit : int
        Most samples that one site may share at a time.
    """

    def __init__(self, arrays: Mapping[str, tuple[str, tuple[int, ...]]], limit: int) -> None:
        self._arrays = {name: (np.dtype(dtype), shape) for name, (dtype, shape) in arrays.items()}
        self._limit = limit
        self._samples: dict[str, dict[str, NDArray[np.generic]]] = {}

    def __len__(self) -> int:
        return sum(len(next(iter(arrays.values()))) for arrays in self._samples.values())

    def add(self, site: str, record: ArrayRecord) -> None:
        """Keep a site's samples.

        Raises
        ------
        FederationError
            Where arrays are missing or unknown, of another type or shape, of unequal number or too many.
        """
        if set(record) != set(self._arrays):
            raise FederationError(f"{site} shared arrays {sorted(record)}, not {sorted(self._arrays)}")
        samples = {name: array.numpy() for name, array in record.items()}
        counts = {len(values) if values.ndim else 0 for values in samples.values()}
        if len(counts) > 1 or not 0 < max(counts) <= self._limit:
            raise FederationError(f"{site} shared {sorted(counts)} samples; from 1 to {self._limit} were agreed")
        for name, values in samples.items():
            dtype, shape = self._arrays[name]
            if values.dtype != dtype or values.shape[1:] != shape:
                raise FederationError(
                    f"{site} shared {name} of type {values.dtype} and shape {values.shape[1:]} a sample; "
                    f"{dtype} and {shape} were agreed"
                )
        self._samples[site] = samples

    def to_record(self) -> ArrayRecord:
        """Return all samples, sites in order of their first sharing."""
        sites = list(self._samples.values())
        return ArrayRecord({name: Array(np.concatenate([site[name] for site in sites])) for name in self._arrays})

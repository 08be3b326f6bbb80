"""Scans that several sites hold, as the coordinator sees them: salted hashes, matched but not understood."""

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedserdiff import wire
from fedserdiff.settings.experiment import Settings


class SharedScans:
    """Which scans each site leaves out, because a site before it in order of arrival brought them.

    A scan counts as brought by the first site that has it, even if that site leaves it out itself. What a site leaves
    out is known once it and every site before it have told their hashes, and never changes after that: hospitals refuse
    orders that vary it.

    Parameters
    ----------
    config : Settings
        With the sites in order of arrival; where it allows overlap nobody is asked and nothing is left out.

    Attributes
    ----------
    salt : bytes
        By which sites hash. Drawn at random: hashes of one run match no other run's, and no result depends on it.
    """

    def __init__(self, config: Settings) -> None:
        self._sites = [site.name for site in config.sites]
        self._allowed = config.data.allow_overlap
        self._told: dict[str, set[bytes]] = {}
        self._left_out: dict[str, NDArray[np.uint8]] = {}  # of settled sites
        self.salt = secrets.token_bytes(wire.SALT_BYTES)

    def question(self) -> dict[str, bytes]:
        """Return what a query asks besides: the salt, unless overlap is allowed."""
        return {} if self._allowed else {wire.SALT: self.salt}

    def add(self, site: str, hashes: NDArray[np.uint8]) -> None:
        """Take in the hashes that a site told, of shape (n, 32).

        What a site told first counts: later sites may be at work by it.
        """
        self._told.setdefault(site, {row.tobytes() for row in hashes})

    def awaited(self, sites: Iterable[str]) -> list[str]:
        """Return, in order of arrival, who has to tell hashes before all of `sites` are settled."""
        if self._allowed:
            return []
        last = max((self._sites.index(site) for site in sites), default=-1)
        return [site for site in self._sites[: last + 1] if site not in self._told]

    def settled(self, site: str) -> bool:
        """Say whether it is known what a site leaves out."""
        return not self.awaited([site])

    def left_out(self, site: str) -> NDArray[np.uint8]:
        """Return the hashes of a settled site that an earlier one brought, of shape (k, 32), in ascending order.

        Raises
        ------
        ValueError
            Where the site is not settled.
        """
        if site in self._left_out:
            return self._left_out[site]
        if not self.settled(site):
            raise ValueError(f"what {site} leaves out is not known before {', '.join(self.awaited([site]))} came")
        earlier = self._sites[: self._sites.index(site)]
        brought = set().union(*(self._told[other] for other in earlier if other in self._told))
        shared = sorted(self._told.get(site, set()) & brought)
        self._left_out[site] = np.frombuffer(b"".join(shared), np.uint8).reshape(-1, wire.HASH_BYTES)
        return self._left_out[site]

    def record_for(self, site: str) -> dict[str, ArrayRecord]:
        """Return what every order to a settled site holds besides, by the record's name; nothing where it shares none.

        Raises
        ------
        ValueError
            As `left_out`.
        """
        hashes = self.left_out(site)
        if not len(hashes):
            return {}
        salt = np.frombuffer(self.salt, np.uint8)
        return {wire.LEFT_OUT: ArrayRecord({wire.HASHES: Array(hashes), wire.SALT: Array(salt)})}

    def counts(self) -> dict[str, int]:
        """Return how many scans each settled site shares with earlier ones, in order of arrival."""
        return {site: len(self.left_out(site)) for site in self._sites if self.settled(site)}

    def state_dict(self) -> dict[str, Any]:
        """Return what a process that goes on with the run needs, as JSON can write it."""
        told = {site: b"".join(sorted(hashes)).hex() for site, hashes in self._told.items()}
        return {"salt": self.salt.hex(), "told": told}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state_dict` returned in a process that has ended: sites that told need not tell again."""
        self.salt = bytes.fromhex(state["salt"])
        for site, text in state["told"].items():
            self.add(site, np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, wire.HASH_BYTES))

"""Scans that several sites have, as the coordinator sees them: it matches salted hashes without knowing the scans."""

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fedserdiff import wire
from fedserdiff.settings.experiment import Settings


class SharedScans:
    """The scans that each site leaves out because an earlier site in order of arrival brought them.

    A scan counts as brought by the first site that has it, even if that site leaves it out itself. What a site leaves
    out is settled once it and every site before it have sent their hashes. It never changes after that, because
    hospitals refuse orders that vary it.

    Parameters
    ----------
    config : Settings
        Settings with the sites in order of arrival. If they allow overlap, no site is asked and nothing is left out.

    Attributes
    ----------
    salt : bytes
        Salt of the sites' hashes. It is random, so hashes of different runs never match, and no result depends on it.
    """

    def __init__(self, config: Settings) -> None:
        self._sites = [site.name for site in config.sites]
        self._allowed = config.data.allow_overlap
        self._told: dict[str, set[bytes]] = {}
        self._left_out: dict[str, NDArray[np.uint8]] = {}  # only of settled sites
        self.salt = secrets.token_bytes(wire.SALT_BYTES)

    def question(self) -> dict[str, bytes]:
        """Return the additional content of a query: the salt, unless overlap is allowed."""
        return {} if self._allowed else {wire.SALT: self.salt}

    def add(self, site: str, hashes: NDArray[np.uint8]) -> None:
        """Add a site's hashes, of shape (n, 32).

        A site's first hashes count, because later sites may already work with them.
        """
        self._told.setdefault(site, {row.tobytes() for row in hashes})

    def awaited(self, sites: Iterable[str]) -> list[str]:
        """Return, in order of arrival, the sites that must send hashes before all of `sites` are settled."""
        if self._allowed:
            return []
        last = max((self._sites.index(site) for site in sites), default=-1)
        return [site for site in self._sites[: last + 1] if site not in self._told]

    def settled(self, site: str) -> bool:
        """Return whether it is settled what a site leaves out."""
        return not self.awaited([site])

    def left_out(self, site: str) -> NDArray[np.uint8]:
        """Return a settled site's hashes that an earlier site brought, of shape (k, 32), in ascending order.

        Raises
        ------
        ValueError
            If the site is not settled.
        """
        if site in self._left_out:
            return self._left_out[site]
        if not self.settled(site):
            raise ValueError(
                f"what {site} leaves out is not known before {', '.join(self.awaited([site]))} sent hashes"
            )
        earlier = self._sites[: self._sites.index(site)]
        brought = set().union(*(self._told[other] for other in earlier if other in self._told))
        shared = sorted(self._told.get(site, set()) & brought)
        self._left_out[site] = np.frombuffer(b"".join(shared), np.uint8).reshape(-1, wire.HASH_BYTES)
        return self._left_out[site]

    def record_for(self, site: str) -> dict[str, ArrayRecord]:
        """Return the record to add to every order to a settled site, by its name; nothing if it shares no scans.

        Raises
        ------
        ValueError
            As in `left_out`.
        """
        hashes = self.left_out(site)
        if not len(hashes):
            return {}
        salt = np.frombuffer(self.salt, np.uint8)
        return {wire.LEFT_OUT: ArrayRecord({wire.HASHES: Array(hashes), wire.SALT: Array(salt)})}

    def counts(self) -> dict[str, int]:
        """Return the number of scans that each settled site shares with earlier ones, in order of arrival."""
        return {site: len(self.left_out(site)) for site in self._sites if self.settled(site)}

    def state_dict(self) -> dict[str, Any]:
        """Return the state for resuming the run in another process, JSON-ready."""
        told = {site: b"".join(sorted(hashes)).hex() for site, hashes in self._told.items()}
        return {"salt": self.salt.hex(), "told": told}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`; sites that have sent hashes need not send them again."""
        self.salt = bytes.fromhex(state["salt"])
        for site, text in state["told"].items():
            self.add(site, np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, wire.HASH_BYTES))

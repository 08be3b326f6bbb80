"""Hospitals with scans drawn from seeds, each behind its own installed app: the same seed is the same scan."""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from guarded import context
from numpy.typing import NDArray
from traffic import SALT, request

from fedserdiff import wire
from fedserdiff.diffusion.refiner import new_student
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.settings.sources import make_settings
from sites.client_app import Premises, make_client_app
from sites.hospital import Hospital, open_hospital

Volumes = dict[str, NDArray[Any]]
Orders = Mapping[str, ArrayRecord]

NONE: Orders = {}
ORDER = {"stage": 1, "server-round": 1, "length": 1, "teacher-stage": [0]}

NORTH = {f"BraTS2021_0000{n}": n for n in range(5)}
WEST = {
    "BraTS-GLI-00010-000": 1,  # north's
    "BraTS-GLI-00010-001": 10,  # of the same patient
    "BraTS-GLI-00011-000": 11,
    "BraTS-GLI-00012-000": 12,
    "BraTS-GLI-00013-000": 13,
    "BraTS-GLI-00014-000": 3,  # north's
    "BraTS-GLI-00015-000": 12,  # under another patient's name
}
EAST = {"BraTS2021_00090": 10, "BraTS2021_00091": 13, "BraTS2021_00092": 92, "BraTS2021_00093": 93}
"""Has a scan that WEST brought and left out itself, one that WEST brought, and two of its own."""


def voxels(volumes: Volumes) -> bytes:
    """The SHA-256 of a tiny scan's brain, computed here: float32 in the box that is not empty."""
    box = np.stack([volumes[name][2:10, 1:12, 2:8] for name in ("t1", "t1ce", "t2", "flair")])
    return hashlib.sha256(box.astype("<f4").tobytes()).digest()


def salted(message: bytes, salt: bytes = SALT) -> bytes:
    return hmac.new(salt, message, hashlib.sha256).digest()


class Scene:
    """Hospitals in order of arrival, each with its scans in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        draw: Callable[..., Volumes],
        write: Callable[..., Path],
        sites: Mapping[str, Mapping[str, int]],
        **changes: Any,
    ) -> None:
        self.folder, self._draw = folder, draw
        told = []
        for name, cases in sites.items():
            release = "brats2023-gli" if "GLI" in next(iter(cases)) else "brats2021"
            for case, seed in cases.items():
                write(folder / "scans" / name, self._volumes(seed, release), release, name=case)
            told.append(Site(name, release, str(folder / "scans" / name)))
        small = {"method": "ser-diff", "data.grid": (16, 16, 16), "data.spacing_mm": 1.0, "training.rounds": 1}
        self.config = make_settings("smoke", {**small, "sites": tuple(told), **changes})

    def _volumes(self, seed: int, release: str = "brats2021") -> Volumes:
        return self._draw(seed=seed, enhancing=3 if "gli" in release else 4)

    def hash_of(self, seed: int, salt: bytes = SALT) -> bytes:
        """The hash that a hospital has to send of a scan."""
        return salted(voxels(self._volumes(seed)), salt)

    def records(self, site: str) -> Path:
        return self.folder / "records" / site / site

    def log(self, site: str) -> str:
        return (self.records(site) / "hospital.log").read_text()

    def own(self, site: str, **changes: Any) -> Settings:
        """The experiment as this hospital has it, which knows of no other's data."""
        others = (s if s.name == site else Site(s.name, s.release, "") for s in self.config.sites)
        return self.config.replace(changes, sites=tuple(others))

    def open(self, site: str) -> Hospital:
        number = [s.name for s in self.config.sites].index(site)
        return open_hospital(self.config.sites[number], self.config, self.folder / "cache")

    def ask(self, site: str, message_type: str, content: RecordDict, **changes: Any) -> Message:
        """Return a hospital's answer; each call makes a new app, as after a restart."""
        config = self.own(site, **changes)
        number = [s.name for s in config.sites].index(site)
        premises = Premises(self.folder / "cache", self.folder / "records" / site)
        return make_client_app(config, premises, number)(request(message_type, content), context())

    def query(self, site: str, salt: Any = SALT, **changes: Any) -> Message:
        asked = {"experiment": self.own(site, **changes).fingerprint, **({} if salt is None else {"salt": salt})}
        return self.ask(site, MessageType.QUERY, RecordDict({wire.CONFIG: ConfigRecord(asked)}), **changes)

    def told(self, site: str, salt: bytes = SALT, **changes: Any) -> list[bytes]:
        """The rows that a hospital tells."""
        record = self.query(site, salt, **changes).content.array_records[wire.SCANS]
        return [row.tobytes() for row in record["hashes"].numpy()]

    def order(self, site: str, message_type: str, more: Mapping[str, Any] = NONE, **changes: Any) -> Message:
        """What a hospital answers to an order with an untrained student and these records besides."""
        student = wire.weights_to_record(new_student(self.config))
        content = RecordDict({wire.ARRAYS: student, wire.CONFIG: ConfigRecord({**ORDER}), **more})
        return self.ask(site, message_type, content, **changes)

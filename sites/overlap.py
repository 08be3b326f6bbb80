"""Scans that several hospitals have: a hospital sends salted hashes of its scans, and leaves out those it is told to.

The coordinator draws a salt. The hash of a scan is the HMAC-SHA256, with that salt, of the SHA-256 of its brain voxels.
Only somebody who has the identical scan can compute its hash. Names and patient ids are never hashed, because anybody
who knows the salt could guess them one by one.
"""

import hmac
import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from fedserdiff import wire
from fedserdiff.data.overlap import find_overlap
from fedserdiff.errors import DataError, FederationError
from fedserdiff.files import write_whole
from fedserdiff.reply_schema import admit, left_out_rules
from fedserdiff.settings.experiment import Settings
from sites.egress import hospital_log
from sites.hospital import Hospital, leave_out
from sites.secret_key import secret_key

PIN_FILE = "left-out.json"
"""File in a hospital's folder with the cases left out because an earlier hospital brought them, by experiment."""

DECOY_KEY_FILE = "decoys.key"
"""File in a hospital's folder with 32 random bytes from which its decoys are made."""

_EARLIER = "an earlier hospital"  # no site can have this name, because names contain no spaces


def scan_hash(salt: bytes, voxel_hash: str) -> bytes:
    """Return the salted hash of a scan, 32 bytes, from its `voxel_hash` in hexadecimal."""
    return hmac.digest(salt, bytes.fromhex(voxel_hash), "sha256")


def hashes_to_tell(hospital: Hospital, asked: ConfigRecord, folder: Path, rows: int) -> ArrayRecord:
    """Return a record of a hospital's salted scan hashes mixed with decoys, `rows` in all, in ascending order.

    Each scan appears once, even if the hospital has it several times. The same salt always gives the same decoys, so
    asking twice does not reveal which hashes are decoys.

    Parameters
    ----------
    hospital : Hospital
        Hospital with all its cases, including those that it will leave out.
    asked : ConfigRecord
        The coordinator's query, with the salt.
    folder : Path
        The hospital's folder, where the key for decoys is kept.
    rows : int
        Number of hashes, at least the number of scans; it must not depend on their exact number.

    Raises
    ------
    FederationError
        If the query has no salt of `SALT_BYTES` bytes.
    """
    salt = asked.get(wire.SALT)
    if not isinstance(salt, bytes) or len(salt) != wire.SALT_BYTES:
        raise FederationError(f"the coordinator sent no salt of {wire.SALT_BYTES} bytes")
    scans = {scan_hash(salt, cached.prepared.voxel_hash) for cached in hospital.cases}
    key = secret_key(folder / DECOY_KEY_FILE)  # results do not depend on the decoys
    decoys = {hmac.digest(key, salt + number.to_bytes(4, "big"), "sha256") for number in range(rows - len(scans))}
    told = np.frombuffer(b"".join(sorted(scans | decoys)), np.uint8)
    return ArrayRecord({wire.HASHES: Array(told.reshape(-1, wire.HASH_BYTES))})


def without_shared(hospital: Hospital, content: RecordDict, config: Settings, folder: Path) -> Hospital:
    """Return the hospital for the coordinator's order `content`, without the scans that it has to leave out.

    The order names, by salted hashes, the scans that an earlier hospital brought. As in a simulation (`find_overlap`),
    all scans of their patients are left out and, for a patient with two names here, those of one name.

    The first order of an experiment settles what is left out, even if it names no scan. A coordinator that could vary
    it would learn the influence of one patient's scan from two answers.

    Parameters
    ----------
    hospital : Hospital
        Hospital with all its cases.
    content : RecordDict
        The order.
    config : Settings
        Settings of the experiment; if they allow overlap, nothing is left out.
    folder : Path
        The hospital's folder, with its log and the record of what is settled.

    Raises
    ------
    FederationError
        If the order names a scan that the hospital does not have, or leaves out other scans than settled before.
    DataError
        As in `leave_out`, and if the record of what is settled is damaged.
    """
    if config.data.allow_overlap:
        if wire.LEFT_OUT in content:
            raise FederationError("the coordinator leaves scans out of an experiment that allows overlap")
        return hospital
    salt, hashes = _ordered(content)
    by_hash = [(scan_hash(salt, cached.prepared.voxel_hash), cached) for cached in hospital.cases]
    brought = [cached for of_scan, cached in by_hash if of_scan in hashes]
    overlaps = find_overlap({_EARLIER: brought, hospital.site.name: hospital.cases})
    overlaps = [overlap for overlap in overlaps if overlap.site == hospital.site.name]
    gone = sorted(overlap.case for overlap in overlaps)
    first = _settle(folder, config.fingerprint, gone)  # first of all, so that no refusal tells a scan from a decoy
    if not hashes <= {of_scan for of_scan, _ in by_hash}:
        raise FederationError("the coordinator leaves out scans that this hospital does not have")
    if first and gone:
        log = hospital_log(folder)
        log.info("%d of %d cases are left out: %s", len(gone), len(hospital.cases), ", ".join(gone))
        for overlap in overlaps:
            log.info("left out: %s", overlap)
    return leave_out(hospital, gone, config)


def _ordered(content: RecordDict) -> tuple[bytes, set[bytes]]:
    """Return the salt of an order and the hashes of the scans that it leaves out."""
    if wire.LEFT_OUT not in content:
        return bytes(wire.SALT_BYTES), set()
    record = admit(RecordDict({wire.LEFT_OUT: content[wire.LEFT_OUT]}), left_out_rules()).array_records[wire.LEFT_OUT]
    hashes: NDArray[np.uint8] = record[wire.HASHES].numpy()
    return record[wire.SALT].numpy().tobytes(), {row.tobytes() for row in hashes}


def _settle(folder: Path, experiment: int, gone: list[str]) -> bool:
    """Check that an experiment leaves out the same cases as before; return whether this is its first order."""
    file = folder / PIN_FILE
    settled = _read_settled(file)
    before = settled.setdefault(str(experiment), gone)
    if before is not gone:
        if before != gone:
            raise FederationError(
                f"the coordinator leaves out {_listed(gone)}, but left out {_listed(before)} before; this must not "
                f"change within an experiment. If an earlier hospital's scans have changed and you agree, remove {file}"
            )
        return False
    text = json.dumps(settled, indent=1)
    write_whole(file, lambda opened: opened.write(text.encode()))
    return True


def _read_settled(file: Path) -> dict[str, list[str]]:
    if not file.exists():
        return {}
    try:
        settled = json.loads(file.read_text())
    except ValueError:
        settled = None
    if not isinstance(settled, dict) or not all(isinstance(cases, list) for cases in settled.values()):
        raise DataError(f"{file}: damaged: it does not list the cases left out")
    return settled


def _listed(cases: list[str]) -> str:
    return ", ".join(cases) or "no case"

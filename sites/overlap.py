"""Scans that several hospitals hold: this one tells salted hashes of its own, and works without those it is told of.

The coordinator draws a salt; the hash of a scan is HMAC-SHA256, by that salt, of the SHA-256 of its brain voxels. Who
holds the very scan can tell its hash, and nobody else. Names and patient ids could be guessed one by one by whoever
knows the salt, so no hash is made of any.
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
"""In a hospital's folder: by experiment, the cases that it works without because an earlier hospital brought them."""

DECOY_KEY_FILE = "decoys.key"
"""In a hospital's folder: 32 random bytes that its decoys are made of."""

_EARLIER = "an earlier hospital"  # no site can be called so: a name holds no blank


def scan_hash(salt: bytes, voxel_hash: str) -> bytes:
    """Return the salted hash of a scan, 32 bytes, from its `voxel_hash` in hexadecimal."""
    return hmac.digest(salt, bytes.fromhex(voxel_hash), "sha256")


def hashes_to_tell(hospital: Hospital, asked: ConfigRecord, folder: Path, rows: int) -> ArrayRecord:
    """Return a record of the salted hashes of a hospital's scans among decoys, `rows` in all, in ascending order.

    Each scan is told once, however often the hospital has it. Decoys are the same whenever the same salt comes, so
    that asking twice does not tell them from scans.

    Parameters
    ----------
    hospital : Hospital
        With all its cases, those too that it will leave out: it brought them all the same.
    asked : ConfigRecord
        The coordinator's query, with the salt.
    folder : Path
        The hospital's own, where the decoys' key is kept.
    rows : int
        At least as many as there are scans; it must not depend on their exact number.

    Raises
    ------
    FederationError
        If the query holds no salt of `SALT_BYTES` bytes.
    """
    salt = asked.get(wire.SALT)
    if not isinstance(salt, bytes) or len(salt) != wire.SALT_BYTES:
        raise FederationError(f"the coordinator sent no salt of {wire.SALT_BYTES} bytes")
    scans = {scan_hash(salt, cached.prepared.voxel_hash) for cached in hospital.cases}
    key = secret_key(folder / DECOY_KEY_FILE)  # no result needs the decoys to repeat from run to run
    decoys = {hmac.digest(key, salt + number.to_bytes(4, "big"), "sha256") for number in range(rows - len(scans))}
    told = np.frombuffer(b"".join(sorted(scans | decoys)), np.uint8)
    return ArrayRecord({wire.HASHES: Array(told.reshape(-1, wire.HASH_BYTES))})


def without_shared(hospital: Hospital, content: RecordDict, config: Settings, folder: Path) -> Hospital:
    """Return the hospital as it works on the coordinator's order `content`: without the scans that it is to leave out.

    The order says by salted hashes which scans an earlier hospital brought. By the rule that a simulation goes by,
    `find_overlap`'s, all scans of their patients are left out, and of a patient who has two names here those of one.

    What is left out is settled by the first order of an experiment, one that names no scan included: a coordinator that
    varied it could tell from two answers what one patient's scan makes of them.

    Parameters
    ----------
    hospital : Hospital
        With all its cases.
    content : RecordDict
        The order.
    config : Settings
        The experiment; where it allows overlap nothing is left out.
    folder : Path
        The hospital's own, where its log is and where it keeps what is settled.

    Raises
    ------
    FederationError
        If the order names a scan that the hospital does not have, or leaves out others than those that are settled.
    DataError
        As `leave_out`, and where the record of what is settled is damaged.
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
    first = _settle(folder, config.fingerprint, gone)  # before all else: no refusal tells a scan from a decoy
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
    """See that an experiment leaves out the cases that it always has; return whether this is its first order."""
    file = folder / PIN_FILE
    settled = _read_settled(file)
    before = settled.setdefault(str(experiment), gone)
    if before is not gone:
        if before != gone:
            raise FederationError(
                f"the coordinator leaves out {_listed(gone)}, and left out {_listed(before)} before: within an "
                f"experiment that must not change. If an earlier hospital's scans did, and you agree, remove {file}"
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
        raise DataError(f"{file}: damaged: it does not say which cases are left out")
    return settled


def _listed(cases: list[str]) -> str:
    return ", ".join(cases) or "no case"

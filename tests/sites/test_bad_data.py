"""A hospital with bad files answers with a code; the file's name and the fault stay in its own log."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from guarded import assert_fault, context, student
from numpy.typing import NDArray
from traffic import TYPES, on_the_wire, request

from fedserdiff import wire
from fedserdiff.settings.experiment import Site
from fedserdiff.settings.sources import make_settings
from fedserdiff.wire import Fault
from sites.client_app import Premises, make_client_app
from sites.ledger import LEDGER_FILE, read_ledger

Volumes = dict[str, NDArray[Any]]
Ask = Callable[[str], Message]
SITE = "north"
CASE = "BraTS2021_00002"
FILE = f"{CASE}_t2.nii.gz"


@pytest.fixture
def file(tmp_path: Path, draw_volumes: Callable[..., Volumes], write_case: Callable[..., Path]) -> Path:
    """A file of a hospital of three patients."""
    for number in range(3):
        write_case(tmp_path / "scans", draw_volumes(number), name=f"BraTS2021_0000{number}")
    return tmp_path / "scans" / CASE / FILE


@pytest.fixture
def ask(tmp_path: Path, file: Path) -> Ask:
    """Ask that hospital for an answer of any type, in good order."""
    site = Site(SITE, "brats2021", str(tmp_path / "scans"))
    config = make_settings(
        "smoke", {"data.grid": (16, 16, 16), "data.spacing_mm": 1.0}, sites=(site,), method="image-replay"
    )
    app = make_client_app(config, Premises(tmp_path / "cache", tmp_path / "records"), 0)

    def ask(message_type: str) -> Message:
        orders: dict[str, Any] = {"stage": 1, "server-round": 1, "length": 1, "teacher-stage": [0]}
        content = RecordDict({wire.ARRAYS: student(config), wire.CONFIG: ConfigRecord(orders)})
        if message_type in (MessageType.QUERY, wire.STATISTICS):
            asked = {"experiment": config.fingerprint, "salt": bytes(range(16))}
            content = RecordDict({wire.CONFIG: ConfigRecord(asked)})
        return app(request(message_type, content), context())

    return ask


def _replace_by(put: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        file.unlink()
        put(file)

    return damage


def _save(voxels: NDArray[Any], affine: NDArray[Any]) -> Callable[[Path], None]:
    return lambda file: nib.save(nib.Nifti1Image(voxels, affine), file)


_FLAT = np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, f"{FILE}: modality t2"),
    "a named pipe": (_replace_by(os.mkfifo), f"{FILE}: a named pipe"),
    "a link to itself": (_replace_by(lambda file: file.symlink_to(file)), f"{FILE}: cannot be read"),
    "truncated": (lambda file: file.write_bytes(file.read_bytes()[:-9]), f"{FILE}: truncated or damaged"),
    "text": (lambda file: file.write_text("gone"), f"{FILE}: not a readable NIfTI file"),
    "complex": (_save(np.ones((12, 14, 10), np.complex64), np.eye(4)), f"{FILE}: not a readable NIfTI file"),
    "colours": (
        _save(np.ones((12, 14, 10), [(c, "u1") for c in "RGB"]), np.eye(4)),
        f"{FILE}: not a readable NIfTI file",
    ),
    "flat": (_save(np.ones((12, 14, 10), np.int16), _FLAT), f"{FILE}: the axes in its header"),
    "a case that links nowhere": (
        lambda file: file.parent.with_name("BraTS2021_00009").symlink_to("gone"),
        "BraTS2021_00009: a symbolic link to a missing file",
    ),
}


@pytest.mark.parametrize("message_type", TYPES)
@pytest.mark.parametrize("kind", BAD)
def test_bad_data_is_told_by_a_code_alone(ask: Ask, file: Path, tmp_path: Path, kind: str, message_type: str) -> None:
    damage, reason = BAD[kind]
    damage(file)

    reply = ask(message_type)

    assert_fault(reply, Fault.DATA)
    sent = on_the_wire(reply)
    assert len(sent) < 300
    assert not any(name in sent for name in (b"BraTS", str(tmp_path).encode(), b"nii", b"Error"))
    log = (tmp_path / "records" / SITE / "hospital.log").read_text()
    assert f"site {SITE}: " in log
    assert reason in log
    (entry,) = read_ledger(tmp_path / "records" / SITE / LEDGER_FILE)
    assert (entry.verdict, entry.reason, entry.bytes) == ("fault", "DATA", 0)


@pytest.mark.parametrize("message_type", TYPES)
def test_the_same_hospital_answers_once_its_data_are_mended(ask: Ask, file: Path, message_type: str) -> None:
    content = file.read_bytes()
    file.write_text("gone")
    assert_fault(ask(message_type), Fault.DATA)
    file.write_bytes(content)
    assert not ask(message_type).has_error()

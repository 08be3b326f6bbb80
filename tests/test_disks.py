"""File systems without safety features: locks, and flushing a file or folder to disk."""

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedserdiff import locks
from fedserdiff.errors import ConfigError, StorageError, os_error_text
from fedserdiff.files import write_whole
from sites.ledger import Ledger, read_ledger
from strategies.run_directory import RunDirectory

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES)


def failing(number: int, fails: Callable[[int], bool] = lambda descriptor: True) -> Callable[..., None]:
    """A call of the system on a descriptor that fails with this error, where it is to; else it is fsync."""
    real = os.fsync

    def call(descriptor: int, *rest: object) -> None:
        if fails(descriptor):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    return call


def is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


@pytest.fixture(autouse=True)
def not_warned() -> Iterator[None]:
    locks._warn.cache_clear()
    yield
    locks._warn.cache_clear()


def append(ledger: Ledger) -> None:
    ledger.append(run=1, message="query", stage=None, server_round=None, verdict="sent", reason="", records=())


@pytest.mark.parametrize("number", NO_LOCKS, ids=errno.errorcode.get)
def test_where_there_are_no_locks_the_work_is_done_without_and_a_warning_says_so_once(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with caplog.at_level(logging.WARNING):
        run = RunDirectory.new(tmp_path / "run")
        run.write_json("results.json", {})
        RunDirectory.of_federation(tmp_path / "federation", patience_s=0)
        ledger = Ledger(tmp_path / "ledger.jsonl")
        append(ledger)
        append(ledger)
    assert [entry.number for entry in read_ledger(tmp_path / "ledger.jsonl")] == [1, 2]
    assert len(caplog.messages) == 1
    assert f"no locks ({os.strerror(number)})" in caplog.messages[0]


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES], ids=errno.errorcode.get)
def test_a_lock_that_another_process_holds_is_still_one(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with pytest.raises(ConfigError, match="another process is working on this run"):
        RunDirectory.new(tmp_path / "run")
    assert not caplog.messages


def test_a_lock_that_is_never_given_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.EACCES))
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.3)
    with pytest.raises(BlockingIOError) as caught:
        append(Ledger(tmp_path / "ledger.jsonl"))
    assert "ledger.jsonl" in os_error_text(caught.value)


@pytest.mark.parametrize("left", [["lock"], ["lock", "config.json", "skipped.csv", "flower.log"], []], ids=", ".join)
def test_a_folder_in_which_nothing_was_run_is_taken(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).touch()
    run = RunDirectory.new(tmp_path)
    run.write_json("results.json", {"dice": 0.5})
    with pytest.raises(ConfigError, match="is not empty"):
        RunDirectory.new(tmp_path)


@pytest.mark.parametrize("kept", ["config.json", "student.pt", "hospitals/west/ledger.jsonl", "notes.txt"])
def test_a_folder_that_holds_anything_else_is_not(tmp_path: Path, kept: str) -> None:
    file = tmp_path / kept
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("keep me")
    if kept != "config.json":  # of a program that has no lock here
        (tmp_path / "lock").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        RunDirectory.new(tmp_path)
    assert file.read_text() == "keep me"


@pytest.mark.parametrize("number", NOT_SYNCED, ids=errno.errorcode.get)
def test_a_file_system_that_cannot_see_a_folder_to_the_disk_keeps_what_is_written(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(number, is_folder))
    write_whole(tmp_path / "file", lambda opened: opened.write(b"whole"))
    assert (tmp_path / "file").read_bytes() == b"whole"
    append(Ledger(tmp_path / "ledger.jsonl"))
    assert len(read_ledger(tmp_path / "ledger.jsonl")) == 1
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    write_whole(tmp_path / "file", lambda opened: opened.write(b"anew"))
    assert (tmp_path / "file").read_bytes() == b"anew"


def test_a_folder_that_cannot_be_opened_keeps_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def opened(path: object, flags: int, *rest: int) -> int:
        if Path(str(path)).is_dir():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, *rest)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(os, "open", opened)
    RunDirectory(tmp_path).write_json("config.json", {})
    assert (tmp_path / "config.json").read_text() == "{}\n"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_disk_that_fails_is_still_told(
    tmp_path: Path, number: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(number, is_folder if what == "folder" else lambda opened: True))
    with pytest.raises(StorageError, match=rf"config.json: cannot be written \({os.strerror(number)}\)"):
        RunDirectory(tmp_path).write_json("config.json", {})


def test_an_error_of_the_system_names_its_file_or_else_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(OSError) as full:  # noqa: PT011 - its text is what is asserted
        write_whole(tmp_path / "scores.csv", lambda opened: opened.write(b"x"))
    assert os_error_text(full.value) == f"{tmp_path}/scores.csv: No space left on device"
    with pytest.raises(OSError) as moved:  # noqa: PT011
        (tmp_path / "absent").rename(tmp_path / "there")
    assert os_error_text(moved.value) == f"{tmp_path}/absent to {tmp_path}/there: No such file or directory"

    def knock() -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    with pytest.raises(OSError) as refused:  # noqa: PT011
        knock()
    text = os_error_text(refused.value)
    assert text.startswith("Connection refused (in knock, ")
    assert "disk" not in text.replace("test_disks.py", "")

"""Errors whose text is written for the person who can mend them."""

import errno
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

_MOST_TOLD = 20  # faults in one text
_ADVICE = {errno.EMFILE: "raise `ulimit -n`", errno.ENFILE: "close other programs, or raise fs.file-max"}


class FedSerDiffError(Exception):
    """Base of every error that a user can mend; command lines print its text and exit non-zero.

    Parameters
    ----------
    *faults : str
        What is wrong: the text has a line for each of the first 20, and says how many more there are.
    advice : str
        What to do about all of them, for a line of its own.
    """

    def __init__(self, *faults: str, advice: str = "") -> None:
        more = len(faults) - _MOST_TOLD
        rest = [f"and {more} more, {len(faults)} in all"] if more > 0 else []
        super().__init__("\n".join([*faults[:_MOST_TOLD], *rest, *filter(None, [advice])]))
        self.faults = faults


class ConfigError(FedSerDiffError):
    """A setting, a flag or a federation file asks for something that cannot be done."""


class DataError(FedSerDiffError):
    """A case on disk cannot be used; the text names the file and what is wrong with it."""


@dataclass(frozen=True)
class CaseFault:
    """What is wrong with a file of a case; the file may be the case's folder, and the site "" where nobody knows it."""

    site: str
    case: str
    file: str
    reason: str

    @classmethod
    def of(cls, site: str, case: str, fault: str) -> Self:
        """Take the text of a `DataError` about a case, ``FILE: reason``, apart: nothing else does."""
        end = fault.find(": ", max(fault.find(case), 0))  # a folder above the case's own may be called "a: b"
        return cls(site, case, fault[: max(end, 0)], fault[end + 2 :] if end >= 0 else fault)

    def __str__(self) -> str:
        return ": ".join([*filter(None, [self.site and f"site {self.site}", self.file]), self.reason])


class BadCasesError(DataError):
    """Cases cannot be used, while others of their hospitals may be.

    Parameters
    ----------
    *found : CaseFault
        All of them.
    others : sequence of str
        What is wrong besides, with no case of its own.
    advice : str
        As `FedSerDiffError`'s.
    """

    def __init__(self, *found: CaseFault, others: Sequence[str] = (), advice: str = "") -> None:
        super().__init__(*others, *map(str, found), advice=advice)
        self.found, self.others, self.advice = found, tuple(others), advice


class RecordsError(FedSerDiffError):
    """What a hospital keeps for itself, and is wrong without, is missing or damaged; the text names the file."""


class StorageError(FedSerDiffError):
    """A file cannot be written, or not read for now: the disk is full, gone or closed, the machine out of resources."""


class FederationError(FedSerDiffError):
    """The federation could not go on: a site is missing, failed, or answered out of protocol."""


class ExperimentError(FederationError):
    """The coordinator and a hospital were given different experiments."""


class ReplyError(FederationError):
    """A hospital's reply is not what was agreed: it does not leave, or is dropped where it arrives."""


class DivergedError(ReplyError):
    """A weight or a loss is not finite."""


class Faults:
    """Collects errors of one `kind`, so that one call tells of all of them."""

    def __init__(self, kind: type[FedSerDiffError]) -> None:
        self._kind = kind
        self._found: list[str] = []

    def add(self, fault: str) -> None:
        """Enter a fault."""
        self._found.append(fault)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Go on after an error in this context."""
        try:
            yield
        except self._kind as error:
            self._found.extend(error.faults)

    def check(self) -> None:
        """Raise one error of all that were caught, if any were."""
        if self._found:
            raise self._kind(*dict.fromkeys(self._found))


def one_of(errors: Sequence[DataError]) -> DataError:
    """Return one error that tells of several: a `BadCasesError` where one of them is."""
    found = [fault for error in errors if isinstance(error, BadCasesError) for fault in error.found]
    others = [one for error in errors for one in (error.others if isinstance(error, BadCasesError) else error.faults)]
    return BadCasesError(*found, others=others) if found else DataError(*others)


def reason_of(error: OSError) -> str:
    """Return why the operating system refuses, and what to do where that is known."""
    reason = str(error.strerror or error) or type(error).__name__
    return f"{os.strerror(error.errno).lower()}: {_ADVICE[error.errno]}" if error.errno in _ADVICE else reason


def os_error_text(error: OSError) -> str:
    """Return what the operating system refused, and why, in one line.

    The files are named where the system names them, and else the place in the code: not only disks fail so, processes
    and sockets do, too.
    """
    reason = reason_of(error)
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if named:
        return f"{' to '.join(named)}: {reason}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{reason} (in {frames[-1].name}, {frames[-1].filename}, line {frames[-1].lineno})" if frames else reason

"""Errors whose messages are written for the person who can fix them."""

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
    """Base class of errors that a user can fix; commands print the message and exit with a non-zero status.

    Parameters
    ----------
    *faults : str
        What is wrong. The message has one line for each of the first 20, then the number of further ones.
    advice : str
        What to do about them, on a line of its own.
    """

    def __init__(self, *faults: str, advice: str = "") -> None:
        more = len(faults) - _MOST_TOLD
        rest = [f"and {more} more, {len(faults)} in all"] if more > 0 else []
        super().__init__("\n".join([*faults[:_MOST_TOLD], *rest, *filter(None, [advice])]))
        self.faults = faults


class ConfigError(FedSerDiffError):
    """A setting, an option or a federation file requests something impossible."""


class DataError(FedSerDiffError):
    """A case on disk cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class CaseFault:
    """A fault in a file of a case, or in its folder; `site` is "" if it is unknown."""

    site: str
    case: str
    file: str
    reason: str

    @classmethod
    def of(cls, site: str, case: str, fault: str) -> Self:
        """Return the fault in a `DataError`'s message about a case, ``FILE: reason``; only this method parses it."""
        end = fault.find(": ", max(fault.find(case), 0))  # a folder above the case's own may be called "a: b"
        return cls(site, case, fault[: max(end, 0)], fault[end + 2 :] if end >= 0 else fault)

    def __str__(self) -> str:
        return ": ".join([*filter(None, [self.site and f"site {self.site}", self.file]), self.reason])


class BadCasesError(DataError):
    """Some cases cannot be used; other cases of their hospitals may be usable.

    Parameters
    ----------
    *found : CaseFault
        Faults of all such cases.
    others : sequence of str
        Other faults, which do not belong to a case.
    advice : str
        As for `FedSerDiffError`.
    """

    def __init__(self, *found: CaseFault, others: Sequence[str] = (), advice: str = "") -> None:
        super().__init__(*others, *map(str, found), advice=advice)
        self.found, self.others, self.advice = found, tuple(others), advice


class RecordsError(FedSerDiffError):
    """A file that a hospital keeps for itself and needs is missing or damaged; the message names the file."""


class StorageError(FedSerDiffError):
    """A file cannot be written or read at the moment: the disk is full, missing or read-only, or resources ran out."""


class FederationError(FedSerDiffError):
    """The federation could not continue: a site is missing, has failed, or broke the protocol."""


class ExperimentError(FederationError):
    """The coordinator and a hospital have different experiments."""


class ReplyError(FederationError):
    """A hospital's reply breaks the agreed rules: the hospital does not send it, or the coordinator drops it."""


class WithheldError(FederationError):
    """A hospital does not answer such a message, by its own settings."""


class DivergedError(ReplyError):
    """A weight or a loss is not finite."""


class Faults:
    """A collector of errors of one `kind`, so that one error can report all of them."""

    def __init__(self, kind: type[FedSerDiffError]) -> None:
        self._kind = kind
        self._found: list[str] = []

    def add(self, fault: str) -> None:
        """Add a fault."""
        self._found.append(fault)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Collect an error raised in this context and continue."""
        try:
            yield
        except self._kind as error:
            self._found.extend(error.faults)

    def check(self) -> None:
        """Raise one error for all collected faults, if there are any."""
        if self._found:
            raise self._kind(*dict.fromkeys(self._found))


def one_of(errors: Sequence[DataError]) -> DataError:
    """Return one error that covers several: a `BadCasesError` if one of them is, else a `DataError`."""
    found = [fault for error in errors if isinstance(error, BadCasesError) for fault in error.found]
    others = [one for error in errors for one in (error.others if isinstance(error, BadCasesError) else error.faults)]
    return BadCasesError(*found, others=others) if found else DataError(*others)


def reason_of(error: OSError) -> str:
    """Return the operating system's reason, and what to do about it if that is known."""
    reason = str(error.strerror or error) or type(error).__name__
    return f"{os.strerror(error.errno).lower()}: {_ADVICE[error.errno]}" if error.errno in _ADVICE else reason


def os_error_text(error: OSError) -> str:
    """Return the operation that failed and the operating system's reason, in one line.

    It names the files if the error has them, otherwise the place in the code: processes and sockets also fail this way.
    """
    reason = reason_of(error)
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if named:
        return f"{' to '.join(named)}: {reason}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{reason} (in {frames[-1].name}, {frames[-1].filename}, line {frames[-1].lineno})" if frames else reason

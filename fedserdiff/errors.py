"""Errors whose text is written for the person who can mend them."""

import traceback


class FedSerDiffError(Exception):
    """Base of every error that a user can mend; command lines print its text and exit non-zero."""


class ConfigError(FedSerDiffError):
    """A setting, a flag or a federation file asks for something that cannot be done."""


class DataError(FedSerDiffError):
    """A case on disk cannot be used; the text names the file and what is wrong with it."""


class StorageError(FedSerDiffError):
    """A file of a run cannot be written: the disk is full, gone or closed to writing."""


class FederationError(FedSerDiffError):
    """The federation could not go on: a site is missing, failed, or answered out of protocol."""


class ExperimentError(FederationError):
    """The coordinator and a hospital were given different experiments."""


class ReplyError(FederationError):
    """A hospital's reply is not what was agreed: it does not leave, or is dropped where it arrives."""


class DivergedError(ReplyError):
    """A weight or a loss is not finite."""


def os_error_text(error: OSError) -> str:
    """Return what the operating system refused, and why, in one line.

    The files are named where the system names them, and else the place in the code: not only disks fail so, processes
    and sockets do, too.
    """
    reason = error.strerror or str(error) or type(error).__name__
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    if named:
        return f"{' to '.join(named)}: {reason}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{reason} (in {frames[-1].name}, {frames[-1].filename}, line {frames[-1].lineno})" if frames else reason

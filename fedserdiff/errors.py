"""Errors whose text is written for the person who can mend them."""


class FedSerDiffError(Exception):
    """Base of every error that a user can mend; command lines print its text and exit non-zero."""


class ConfigError(FedSerDiffError):
    """A setting, a flag or a federation file asks for something that cannot be done."""


class DataError(FedSerDiffError):
    """A case on disk cannot be used; the text names the file and what is wrong with it."""


class RecordsError(FedSerDiffError):
    """What a hospital keeps for itself, and is wrong without, is missing or damaged; the text names the file."""


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

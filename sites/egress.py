"""What may leave a hospital: for now, no exception's text, which can hold a patient's path."""

import logging
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable

from fedserdiff.errors import ConfigError, DataError, FederationError
from fedserdiff.wire import Fault


def hospital_log(folder: Path) -> logging.Logger:
    """Return the hospital's own log, ``hospital.log`` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger(f"fedserdiff.hospital.{folder.resolve()}")
    if not log.handlers:
        handler = logging.FileHandler(folder / "hospital.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.propagate = False
        log.setLevel(logging.INFO)
    return log


def answer_or_fault(message: Message, context: Context, handler: ClientAppCallable, log: logging.Logger) -> Message:
    """Return the handler's reply, or, where it raises, an error reply with a fixed code; the text goes to `log`."""
    try:
        return handler(message, context)
    except Exception as error:  # noqa: BLE001 - nothing may pass: Flower would send the exception's text
        return fault_reply(message, error, log)


def fault_reply(message: Message, error: Exception, log: logging.Logger) -> Message:
    """Write an exception to the hospital's `log` and return the error reply that tells its kind alone."""
    log.error("%s failed", message.metadata.message_type, exc_info=error)
    fault = _fault_of(error)
    return Message(Error(code=int(fault), reason=fault.name), reply_to=message)


def _fault_of(error: Exception) -> Fault:
    if isinstance(error, DataError):
        return Fault.DATA
    if isinstance(error, ConfigError | FederationError):
        return Fault.PROTOCOL
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return Fault.MEMORY
    return Fault.INTERNAL

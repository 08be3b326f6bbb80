"""A hospital's node: Flower's SuperNode on the wire, and behind it this hospital's own, installed app.

Flower would run whatever app the coordinator ships. Here the SuperNode is started in process isolation, where it runs
none, and this module takes the part of Flower's SuperExec: it fetches each message from the SuperNode, lets the
installed app answer it, and leaves the shipped bundle unopened.
"""

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from fedserdiff.deployment.kit import HospitalKit
from fedserdiff.errors import FederationError
from sites.egress import hospital_log

_LOOPBACK = "127.0.0.1"
_START_S = 60
_STOP_S = 10
_POLL_S = 0.2
_LAST_LINES = 6

Tell = Callable[[str], None]
"""Takes a line on what goes on, for whoever watches at the hospital."""


def serve(kit: HospitalKit, app: ClientApp, tell: Tell) -> None:
    """Answer the coordinator until this process is stopped.

    Raises
    ------
    FederationError
        Where the SuperNode does not start. Where it ends later, because the coordinator refuses its key say, this
        process ends with exit code 1.
    """
    kit.records.mkdir(parents=True, exist_ok=True)
    log = kit.records / "supernode.log"
    secret = secrets.token_bytes(32)
    with tempfile.TemporaryDirectory() as folder:
        secret_file = Path(folder) / "superexec-secret"
        secret_file.touch(mode=0o600)
        secret_file.write_bytes(secret)
        with _supernode(kit, secret_file, log, tell) as address:
            _answer_messages(address, secret, app, kit, tell)


@contextmanager
def _supernode(kit: HospitalKit, secret_file: Path, log: Path, tell: Tell) -> Iterator[str]:
    """Run Flower's SuperNode for as long as the context lasts; yield the address of its Runtime API on this machine."""
    port = _free_port()
    command = [
        str(Path(sysconfig.get_path("scripts")) / "flower-supernode"),
        *("--superlink", kit.coordinator),
        *("--root-certificates", str(kit.ca)),
        *("--auth-supernode-private-key", str(kit.key)),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(secret_file)),
        *("--host", _LOOPBACK),
        *("--port", str(port)),
    ]
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(kit.records / "flower")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **quiet}, preexec_fn=_die_with_parent
        )
    stopping = threading.Event()

    def watch() -> None:
        code = process.wait()
        if not stopping.is_set():
            tell(_ended(code, log))
            os._exit(1)  # the main thread may be in the middle of training, for nobody

    try:
        _wait_until_listening(port, process, log)
        threading.Thread(target=watch, daemon=True).start()
        threading.Thread(target=_tell_when_connected, args=(log, log.stat().st_size, tell), daemon=True).start()
        yield f"{_LOOPBACK}:{port}"
    finally:
        stopping.set()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _answer_messages(address: str, secret: bytes, app: ClientApp, kit: HospitalKit, tell: Tell) -> None:
    signed = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=["/flwr.proto.Runtime/AcquireTask"])
    client = _client(address, signed)
    tell(f"waiting for the coordinator at {kit.coordinator}")
    while True:
        task = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        if not task.token:
            time.sleep(_POLL_S)
            continue
        try:
            _answer_one(address, task.token, app, tell)
        except Exception as error:  # noqa: BLE001 - one message that cannot be had or answered must not end the node
            hospital_log(kit.records).error("a message was not answered", exc_info=error)
            tell("a message was not answered: see hospital.log")


def _answer_one(address: str, token: str, app: ClientApp, tell: Tell) -> None:
    """Fetch one message, have the installed app answer it, and hand the answer to the SuperNode."""
    client = _client(address, RuntimeTokenHttpInterceptor(token))
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    try:
        message, theirs, _, _ = pull_task_input(client)  # what is left out: the coordinator's run and its app bundle
        own = Context(theirs.run_id, theirs.node_id, node_config={}, state=RecordDict(), run_config={})
        tell(f"{message.metadata.message_type}: at work")
        started = time.monotonic()
        reply = app(message, own)
        push_message(client, reply, own)
        push_task_output(client, None, SubStatus.COMPLETED, "")
        tell(f"{message.metadata.message_type}: {_outcome(reply)} after {time.monotonic() - started:.0f} s")
    finally:
        heartbeat.stop()
        client.close()


def _outcome(reply: Message) -> str:
    if reply.has_error():
        return f"answered by code {reply.error.code}, {reply.error.reason}: see hospital.log and the ledger"
    size = sum(record.count_bytes() for record in reply.content.values())
    return f"{size:,} bytes left this hospital"


def _client(address: str, interceptor: ProtobufClientInterceptor) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,  # it is this machine's loopback
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), interceptor],
        retry_invoker=make_simple_http_retry_invoker(),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _wait_until_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        if (code := process.poll()) is not None:
            raise FederationError(_ended(code, log))
        try:
            socket.create_connection((_LOOPBACK, port), 1).close()
        except OSError:
            time.sleep(_POLL_S)
        else:
            return
    raise FederationError(f"Flower's SuperNode did not start within {_START_S} s: see {log}")


def _tell_when_connected(log: Path, begin: int, tell: Tell) -> None:
    """Read the SuperNode's log, from where it stood when this SuperNode started, until it has been let in."""
    while True:
        with log.open("rb") as file:
            file.seek(begin)
            if b"SuperNode ID" in file.read():
                tell("the coordinator knows this hospital's key: connected")
                return
        time.sleep(1)


def _ended(code: int, log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"Flower's SuperNode ended (exit code {code}): {' / '.join(lines[-_LAST_LINES:])} (all of it: {log})"


def _die_with_parent() -> None:
    """Have Linux end the SuperNode should this process be killed: nobody else would answer its messages."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)

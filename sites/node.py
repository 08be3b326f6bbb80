"""A hospital's node: Flower's SuperNode on the network, and behind it the hospital's own installed app.

Flower would run any app that the coordinator ships. Here the SuperNode is started in process isolation, in which it
runs no app, and this module replaces Flower's SuperExec: it fetches each message from the SuperNode, lets the installed
app answer it, and never opens the shipped bundle.
"""

import os
import secrets
import signal
import socket
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
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

from fedserdiff.deployment.address import NO_PROXY, is_loopback, proxy_to, split_address
from fedserdiff.deployment.kit import HospitalKit
from fedserdiff.errors import FederationError
from fedserdiff.processes import end_with
from sites.egress import hospital_log

_LOOPBACK = "127.0.0.1"
_POLL_S = 0.2
_STOP_S = 10
_SLOW_S = 15
_UNREACHABLE_S = 24 * 3600
_LET_IN_S = 120  # the coordinator drops an interrupted connection after two heartbeats, which is a minute
_AGAIN_S = 8
_NOT_LET_IN = "Failed to activate SuperNode"  # the only message that Flower gives to a rejected node
_LAST_LINES = 6

Tell = Callable[[str], None]
"""Callback that prints a status line at the hospital."""


def serve(kit: HospitalKit, app: ClientApp, tell: Tell) -> None:
    """Answer the coordinator until this process is stopped.

    Raises
    ------
    FederationError
        If the coordinator is not reached within a day or rejects this hospital. If the SuperNode ends later, this
        process ends with exit code 1.
    """
    kit.records.mkdir(parents=True, exist_ok=True)
    secret = secrets.token_bytes(32)
    with tempfile.TemporaryDirectory() as folder:
        secret_file = Path(folder) / "superexec-secret"
        secret_file.touch(mode=0o600)
        secret_file.write_bytes(secret)
        supernode = _SuperNode(kit, secret_file, tell)
        os.environ.update(NO_PROXY)  # from here on this process only talks to its own SuperNode
        with supernode as address:
            _answer_messages(address, secret, app, kit, tell)


class _SuperNode:
    """Flower's SuperNode, connected to the coordinator within the context.

    Entering the context returns the address of its Runtime API on this machine's loopback.
    """

    def __init__(self, kit: HospitalKit, secret_file: Path, tell: Tell) -> None:
        self._kit = kit
        self._secret_file = secret_file
        self._tell = tell
        self._log = kit.records / "supernode.log"
        self._stopping = threading.Event()
        host, _ = split_address(kit.coordinator, "coordinator")
        proxy = proxy_to(host)
        self._way = (
            f"{kit.coordinator}, through the proxy {proxy} from https_proxy or all_proxy" if proxy else kit.coordinator
        )
        self._environment = {
            **os.environ,
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_HOME": str(kit.records / "flower"),
            "PYTHONIOENCODING": "utf-8",
            **(NO_PROXY if is_loopback(host) else {}),
        }

    def __enter__(self) -> str:
        self._tell(f"connecting to the coordinator at {self._way}")
        end = time.monotonic() + _LET_IN_S
        while True:
            port = self._start()
            said = self._wait_until_connected()
            if said is None:
                break
            if _NOT_LET_IN not in said or time.monotonic() > end:
                raise FederationError(self._ended(said))
            self._tell(
                "rejected: the coordinator does not know this hospital's key, or still has its earlier connection, "
                f"which ends after a minute; trying for {end - time.monotonic():.0f} s more"
            )
            time.sleep(_AGAIN_S)
        self._tell("the coordinator knows this hospital's key: connected, waiting for its messages")
        threading.Thread(target=self._watch, daemon=True).start()
        return f"{_LOOPBACK}:{port}"

    def __exit__(self, *exception: object) -> None:
        self._stopping.set()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _start(self) -> int:
        """Start the process and return the port of its Runtime API."""
        with socket.socket() as probe:
            probe.bind((_LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        kit = self._kit
        command = [
            str(Path(sysconfig.get_path("scripts")) / "flower-supernode"),
            *("--superlink", kit.coordinator),
            *("--root-certificates", str(kit.ca)),
            *("--auth-supernode-private-key", str(kit.key)),
            *("--max-wait-time", str(_UNREACHABLE_S)),
            *("--isolation", "process"),
            *("--superexec-auth-secret-file", str(self._secret_file)),
            *("--host", _LOOPBACK, "--port", str(port)),
        ]
        with self._log.open("ab") as output:
            self._from = output.tell()
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                preexec_fn=partial(end_with, os.getpid()),  # on SIGTERM it disconnects properly
            )
        return port

    def _wait_until_connected(self) -> str | None:
        """Return None once the coordinator has accepted the SuperNode, or the output of a SuperNode that ended."""
        begun = time.monotonic()
        told = False
        while True:
            ended = self._process.poll() is not None
            said = self._said()
            if "SuperNode ID" in said:
                return None
            if ended:
                return said
            waited = time.monotonic() - begun
            if waited > _UNREACHABLE_S:
                raise FederationError(f"the coordinator at {self._way} was not reached within a day")
            if waited > _SLOW_S and not told:
                told = True
                self._tell(f"no coordinator at {self._way} yet; trying for a day (see {self._log})")
            time.sleep(_POLL_S)

    def _watch(self) -> None:
        self._process.wait()
        if not self._stopping.is_set():
            self._tell(self._ended(self._said()))
            os._exit(1)  # the main thread may still be training, which would be useless

    def _said(self) -> str:
        """Return this SuperNode's log only; the file also contains those of earlier ones."""
        with self._log.open("rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    def _ended(self, said: str) -> str:
        lines = [line.strip() for line in said.splitlines() if line.strip() and "INFO" not in line]
        return f"Flower's SuperNode ended: {' '.join(lines[-_LAST_LINES:])} (see {self._log})"


def _answer_messages(address: str, secret: bytes, app: ClientApp, kit: HospitalKit, tell: Tell) -> None:
    signed = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=["/flwr.proto.Runtime/AcquireTask"])
    client = _client(address, signed)
    while True:
        task = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        if not task.token:
            time.sleep(_POLL_S)
            continue
        try:
            _answer_one(address, task.token, app, tell)
        except Exception as error:  # noqa: BLE001 - one message that cannot be fetched or answered must not end the node
            hospital_log(kit.records).error("a message was not answered", exc_info=error)
            tell("a message was not answered; see hospital.log")


def _answer_one(address: str, token: str, app: ClientApp, tell: Tell) -> None:
    """Fetch one message, let the installed app answer it, and pass the answer to the SuperNode."""
    client = _client(address, RuntimeTokenHttpInterceptor(token))
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    try:
        message, theirs, _, _ = pull_task_input(client)  # ignored: the coordinator's run and its app bundle
        own = Context(theirs.run_id, theirs.node_id, node_config={}, state=RecordDict(), run_config={})
        tell(f"{message.metadata.message_type}: working")
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
        return f"answered with code {reply.error.code}, {reply.error.reason}; see hospital.log and the ledger"
    size = sum(record.count_bytes() for record in reply.content.values())
    return f"{size:,} bytes left this hospital"


def _client(address: str, interceptor: ProtobufClientInterceptor) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,  # this machine's loopback
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), interceptor],
        retry_invoker=make_simple_http_retry_invoker(),
    )

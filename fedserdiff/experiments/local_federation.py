"""A federation of separate processes on this machine's loopback: coordinator and hospitals as in a deployment."""

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from fedserdiff.deployment.address import NO_PROXY
from fedserdiff.deployment.kit import SITE_FILE
from fedserdiff.deployment.provisioning import provision
from fedserdiff.errors import ConfigError, FederationError
from fedserdiff.processes import end_with
from fedserdiff.settings.experiment import Settings
from fedserdiff.settings.foreign import foreign
from strategies.evaluation_plan import plan_evaluation
from strategies.stream import make_stream

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout whose sources ``flwr run`` packages as its app."""

_START_S = 300
_STOP_S = 20
_COMMAND_S = 300


def check_checkout() -> None:
    """Check that the project was installed from a checkout that still exists, which ``flwr run`` needs.

    Raises
    ------
    ConfigError
        If the project was installed from a wheel.
    """
    if not (PROJECT / "pyproject.toml").is_file():
        raise ConfigError(
            f"{PROJECT}: has no pyproject.toml. Flower packages the coordinator's app from the project's sources, "
            "which a wheel does not contain. Check the project out, install it with pip install -e . and run this "
            "again"
        )


class LocalFederation:
    """Flower's SuperLink and one hospital process for each site, with TLS and keys, in one folder.

    Parameters
    ----------
    folder : Path
        New or empty folder for certificates, keys, every hospital's records, and the log of every process.
    config : Settings
        Settings whose sites name their data and cases; each hospital only receives its own. Hospitals allow the
        third-party code that the settings name.
    """

    def __init__(self, folder: Path, config: Settings) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.coordinator = provision(folder, config, f"localhost:{self.port}", {})
        self.folder = folder.resolve()
        if allowed := [name for _, name in foreign(config.to_dict())]:  # the user of this machine allows it
            for site in config.sites:
                file = self.kit(site.name) / SITE_FILE
                file.write_text(f"allow = {json.dumps(allowed)}\n{file.read_text(encoding='utf-8')}", encoding="utf-8")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            **os.environ,
            "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",  # SuperExec searches there
            "FLWR_HOME": str(self.coordinator.folder / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PYTHONUNBUFFERED": "1",  # logs are read while they are written
            "PYTHONIOENCODING": "utf-8",  # Flower prints characters that few encodings have
        }
        self._at_coordinator = {**self._environment, **NO_PROXY}  # it only talks to this machine

    def __enter__(self) -> "LocalFederation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._processes):
            self.stop(name)

    @property
    def run(self) -> Path:
        """The run's folder at the coordinator."""
        return self.coordinator.folder / "run"

    def kit(self, site: str) -> Path:
        """Return a hospital's folder."""
        return self.folder / "sites" / site

    def ledger(self, site: str) -> Path:
        """Return a hospital's ledger."""
        return self.kit(site) / "records" / site / "ledger.jsonl"

    def log(self, name: str) -> Path:
        """Return the log of a process: ``coordinator``, ``run`` or a site's name."""
        return self.folder / f"{name}.log"

    def start_coordinator(self) -> None:
        """Start the SuperLink and register the hospitals' keys.

        Raises
        ------
        FederationError
            If it does not listen in time or rejects a key.
        """
        folder = self.coordinator.folder
        self._start(
            "coordinator",
            [
                "flower-superlink",
                *("--host", "127.0.0.1", "--port", str(self.port)),
                *("--ssl-certfile", str(folder / "server.crt")),
                *("--ssl-keyfile", str(folder / "server.key")),
                *("--ssl-ca-certfile", str(folder / "ca.crt")),
                *("--enable-supernode-auth", "--database", str(folder / "superlink.db")),
                "--disable-runtime-dependency-installation",
            ],
            self._at_coordinator,
        )
        end = time.monotonic() + _START_S
        while socket.socket().connect_ex(("127.0.0.1", self.port)):
            if time.monotonic() > end or self._processes["coordinator"].poll() is not None:
                raise FederationError(
                    f"Flower's SuperLink did not start within {_START_S} s: see {self.log('coordinator')}"
                )
            time.sleep(0.2)
        if not self.flower("supernode", "list", "federation")["nodes"]:  # otherwise the database has them already
            for site in self.coordinator.keys:
                self.flower("supernode", "register", str(folder / "keys" / f"{site}.pub"), "federation")

    def start_hospital(self, site: str, kit: Path | None = None) -> None:
        """Start a site's hospital process, with its own folder unless `kit` names another."""
        command = [sys.executable, "-m", "fedserdiff.commands.hospital", str(kit or self.kit(site))]
        self._start(site, command, self._environment)

    def start_run(self) -> None:
        """Start or resume the run and follow its log."""
        config = f'federation="{self.coordinator.folder}"'
        command = ["flwr", "run", ".", "federation", "--stream", "--run-config", config]
        self._start("run", command, self._at_coordinator)

    def wait_for_run(self, timeout_s: float, tell: Callable[[str], None] = lambda line: None) -> None:
        """Wait until the run has ended; pass each line of its log that is not Flower's to `tell`.

        Raises
        ------
        FederationError
            If it does not end in time or lacks results; the text includes the coordinator's error.
        """
        end = time.monotonic() + timeout_s
        process = self._processes["run"]
        with self.log("run").open(encoding="utf-8", errors="replace") as log:
            self._follow(log, process, end, tell)
        if process.poll() is None:
            raise FederationError(f"the run did not end within {timeout_s:.0f} s: see {self.log('run')}")
        if not self.finished():
            lines = [
                line.strip() for line in self.log("run").read_text(encoding="utf-8", errors="replace").splitlines()
            ]
            said = [line for line in lines if "Error: " in line] or lines[-1:]
            raise FederationError(
                f"the run did not finish: {said[-1] if said else 'no message'} (see {self.log('run')})"
            )

    def finished(self) -> bool:
        """Return whether the run's results are complete."""
        file = self.run / "results.json"
        if not file.exists():
            return False
        rows = json.loads(file.read_text())["R"]["dice"]["mean"]
        config = self.coordinator.config
        sites = [site.name for site in config.sites]
        wanted = plan_evaluation(config, make_stream(config).stages(sites)).rows
        scored = [tuple(site for site, value in zip(sites, row, strict=True) if value is not None) for row in rows]
        return scored == list(wanted)

    def stop(self, name: str) -> None:
        """Terminate a process and those it started; kill them if they do not end."""
        process = self._processes.pop(name)
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        _signal_group(process, signal.SIGKILL)
        process.wait()

    def kill(self, name: str) -> None:
        """Kill a process and those it started without warning, as a power cut would."""
        process = self._processes.pop(name)
        for started in [process.pid, *_descendants(process.pid)]:  # Flower's SuperExec has a separate process group
            with suppress(ProcessLookupError):
                os.kill(started, signal.SIGKILL)
        process.wait()

    def crash(self, name: str) -> None:
        """Kill only this process without warning, as an operating system that is out of memory would."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def exit_code(self, name: str, timeout_s: float) -> int:
        """Wait for a process to end by itself and return its exit code.

        Raises
        ------
        FederationError
            If it does not end in time.
        """
        try:
            return self._processes[name].wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise FederationError(f"{name} did not end within {timeout_s:.0f} s") from None

    def flower(self, *arguments: str) -> dict[str, Any]:
        """Run Flower's command line as the coordinator and return its answer.

        Raises
        ------
        FederationError
            If it fails or does not end. Failure may show only in its answer, not in its exit code.
        """
        command = ["flwr", *arguments, "--format", "json"]
        try:
            done = subprocess.run(
                command,
                env=self._at_coordinator,
                cwd=PROJECT,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_COMMAND_S,
            )
        except subprocess.TimeoutExpired:
            raise FederationError(f"{' '.join(command)}: did not end within {_COMMAND_S} s") from None
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = None
        if done.returncode or not isinstance(answer, dict) or answer.get("success") is not True:
            told = answer.get("error-message") if isinstance(answer, dict) else None
            said = " ".join(str(told or done.stdout + done.stderr).split())
            raise FederationError(f"{' '.join(command)}: {said}")
        return answer

    def _start(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        with self.log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=PROJECT,
                start_new_session=True,  # so that a process and those it starts can be stopped together
                preexec_fn=partial(end_with, os.getpid()),
            )

    def _follow(self, log: IO[str], process: subprocess.Popen[bytes], end: float, tell: Callable[[str], None]) -> None:
        while time.monotonic() < end:
            ended = process.poll() is not None
            while line := log.readline():
                if line.strip() and "INFO" not in line:
                    tell(line.rstrip())
            if ended:
                return
            time.sleep(0.2)


def _descendants(process: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return [*children, *(grandchild for child in children for grandchild in _descendants(child))]


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)

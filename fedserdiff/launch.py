"""The only module that runs a ServerApp and a ClientApp on Flower's Ray engine.

Flower plans to remove `run_simulation`; docs/explanation/deployment.md says what `simulate` will call then.
"""

import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import ray
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation

from fedserdiff.errors import ConfigError, FederationError, FedSerDiffError
from fedserdiff.text import readable

_KNOCK_S = 10
_WORKER_RESTARTS = 20
"""How often a killed worker is replaced. Without a limit, a machine without memory would never report it."""
_HEAPS = 64
"""More than the threads of a worker. glibc gives each thread a heap, but at most 8 per CPU. On 2 CPUs, Ray's threads
use these up. Two training threads then share one and wait for each other at every tensor
(docs/explanation/performance.md)."""


@dataclass(frozen=True)
class Resources:
    """Ray's resources for a hospital at work, and the cluster to use.

    `address` is that of an existing cluster (``host:port`` or ``auto``); None starts Ray on this machine with `cpus`
    CPUs, by default all.
    """

    cpus_per_site: float
    gpus_per_site: float = 0
    address: str | None = None
    cpus: int | None = None


def simulate(
    server_app: ServerApp,
    client_app: ClientApp,
    sites: int,
    resources: Resources,
    log_file: Path,
    timeout_s: float,
) -> None:
    """Run a federation of `sites` virtual nodes to its end, then leave Ray.

    If this process is already connected to Ray, that connection is used.

    Parameters
    ----------
    server_app, client_app
        The two halves of the experiment.
    sites : int
        Number of nodes; their ``partition-id`` starts at 0.
    resources : Resources
        Resources for Ray's scheduler.
    log_file : Path
        File for Flower's log, which would otherwise disturb the live view.
    timeout_s : float
        Longest time for one message at a site; after that, its worker process ends.

    Raises
    ------
    ConfigError
        If Ray cannot be reached, or lacks the CPUs or GPUs for one site.
    FederationError
        If the engine stops for another reason, which is in the log.
    FedSerDiffError
        Any other error of this package that the ServerApp raised.
    """
    with _flower_log(log_file):
        _start_ray(resources)
        try:
            run_simulation(
                server_app,
                _mortal(client_app, timeout_s),
                num_supernodes=sites,
                backend_config={
                    "client_resources": {
                        "num_cpus": resources.cpus_per_site,
                        "num_gpus": resources.gpus_per_site,
                        "max_restarts": _WORKER_RESTARTS,  # Flower passes this on to Ray
                    }
                },
            )
        except FedSerDiffError:
            raise
        except Exception as error:
            raise FederationError(f"Flower's engine stopped ({type(error).__name__}): see {log_file}") from error
        finally:
            ray.shutdown()


def _mortal(client_app: ClientApp, timeout_s: float) -> ClientApp:
    """Return an app whose worker ends its own process if a message takes too long.

    Flower's engine waits for its workers indefinitely, so a hanging site would prevent the run from ending with the
    error that reports it.
    """

    def call(message: Message, context: Context) -> Message:
        watch = threading.Timer(timeout_s, os._exit, (1,))
        watch.daemon = True
        watch.start()
        try:
            return client_app(message, context)
        finally:
            watch.cancel()

    return cast(ClientApp, call)  # Flower only calls it


def _start_ray(resources: Resources) -> None:
    """Start or join Ray, and check that at least one machine has the resources for one site."""
    if not ray.is_initialized():
        if resources.address not in (None, "auto"):
            _knock(str(resources.address))
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # Ray's future default; without it, every start warns
        os.environ.setdefault("RAY_worker_niceness", "0")  # with Ray's 15, other busy processes starve the hospitals
        os.environ.setdefault("MALLOC_ARENA_MAX", str(_HEAPS))  # for the workers; this process has already read it
        for name in (os.getcwd(), *sys.argv):  # Ray records both
            if readable(name) != name:
                raise ConfigError(f"{name}: Ray accepts only UTF-8 names: use a symbolic link with another name")
        try:
            ray.init(
                address=resources.address or "local",  # None would join any cluster that this machine belongs to
                num_cpus=resources.cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"Ray at {resources.address or 'this machine'} cannot be used: {error}") from None
        except Exception as error:  # Ray raises this class if the machine is too busy to start it in time
            if type(error) is not Exception:
                raise
            raise FederationError(f"Ray did not start at {resources.address or 'this machine'}: {error}") from None
    offers = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = any(
        offer.get("CPU", 0) >= resources.cpus_per_site and offer.get("GPU", 0) >= resources.gpus_per_site
        for offer in offers
    )
    if not fits:
        most = ", ".join(f"{o.get('CPU', 0):g} CPUs and {o.get('GPU', 0):g} GPUs" for o in offers)
        ray.shutdown()
        raise ConfigError(
            f"a site needs {resources.cpus_per_site:g} CPUs and {resources.gpus_per_site:g} GPUs, "
            f"but Ray's machines have {most}: lower --cpus-per-site or --gpus-per-site"
        )


def _knock(address: str) -> None:
    """Check that a server listens at a cluster's address: Ray itself would silently retry for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), _KNOCK_S).close()
    except (OSError, ValueError) as error:
        raise ConfigError(f"Ray at {address}: no answer within {_KNOCK_S} s ({error})") from None


@contextmanager
def _flower_log(file: Path) -> Iterator[None]:
    """Send Flower's log to a file within the context."""
    log = logging.getLogger("flwr")
    kept = log.handlers[:]
    handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.handlers = [handler]
    try:
        yield
    finally:
        log.handlers = kept
        handler.close()

"""Run a ServerApp and a ClientApp on Flower's Ray engine: the only place that knows how.

Flower is to remove `run_simulation`: docs/explanation/deployment.md says what `simulate` calls then.
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
"""A worker that was killed is replaced; not for ever, or a machine without memory would never say so."""
_HEAPS = 64
"""More than a worker has threads. glibc gives each thread a heap, but no more than 8 a CPU: on 2 CPUs Ray's own threads
use them up, and two that train share one and wait for each other at every tensor (docs/explanation/performance.md)."""


@dataclass(frozen=True)
class Resources:
    """What Ray reserves for a hospital at work, and the cluster it runs on.

    `address` is an existing cluster's (``host:port`` or ``auto``); None starts Ray on this machine, where it may use
    `cpus` of the CPUs: all by default.
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

    Where this process is connected to a Ray already, that one is used.

    Parameters
    ----------
    server_app, client_app
        The two halves of the experiment.
    sites : int
        Number of nodes; their ``partition-id`` runs from 0.
    resources : Resources
        For Ray's scheduler.
    log_file : Path
        Takes Flower's own log, which would otherwise break into the live view.
    timeout_s : float
        The longest that a site may be busy with one message: its worker's process ends then.

    Raises
    ------
    ConfigError
        If Ray cannot be reached, or has not enough CPUs or GPUs for one site.
    FederationError
        If the engine stops for a reason of its own; the log says which.
    FedSerDiffError
        Whatever of ours the ServerApp raised.
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
                        "max_restarts": _WORKER_RESTARTS,  # Flower hands this on to Ray
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
    """Return the app with one thing added: a worker that is busy with a message for too long ends its own process.

    Flower's engine waits for its workers without a limit, so a site that hangs would keep the run from ending with the
    very error that says so.
    """

    def call(message: Message, context: Context) -> Message:
        watch = threading.Timer(timeout_s, os._exit, (1,))
        watch.daemon = True
        watch.start()
        try:
            return client_app(message, context)
        finally:
            watch.cancel()

    return cast(ClientApp, call)  # all that Flower asks of it is to be called


def _start_ray(resources: Resources) -> None:
    """Start or join Ray, and see that one site's resources exist on at least one machine."""
    if not ray.is_initialized():
        if resources.address not in (None, "auto"):
            _knock(str(resources.address))
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # Ray's coming default; without it every start warns
        os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15, whatever else is busy starves the hospitals
        os.environ.setdefault("MALLOC_ARENA_MAX", str(_HEAPS))  # of the workers; this process has read it already
        for name in (os.getcwd(), *sys.argv):  # Ray notes both
            if readable(name) != name:
                raise ConfigError(f"{name}: Ray takes no name that is not UTF-8: go there by a link of another name")
        try:
            ray.init(
                address=resources.address or "local",  # None would join whatever cluster this machine belongs to
                num_cpus=resources.cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"Ray at {resources.address or 'this machine'} cannot be used: {error}") from None
        except Exception as error:  # it raises no other class where the machine is too busy to start it in time
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
            f"a site asks for {resources.cpus_per_site:g} CPUs and {resources.gpus_per_site:g} GPUs, "
            f"but Ray's machines have {most}: lower --cpus-per-site or --gpus-per-site"
        )


def _knock(address: str) -> None:
    """See that somebody listens at a cluster's address: Ray itself would try for minutes and not say so."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), _KNOCK_S).close()
    except (OSError, ValueError) as error:
        raise ConfigError(f"Ray at {address}: nobody answers within {_KNOCK_S} s ({error})") from None


@contextmanager
def _flower_log(file: Path) -> Iterator[None]:
    """Send Flower's log to a file for as long as the context lasts."""
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

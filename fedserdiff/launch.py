"""Run a ServerApp and a ClientApp on Flower's Ray engine: the only place that knows how."""

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import ray
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation

from fedserdiff.errors import ConfigError, FedSerDiffError


@dataclass(frozen=True)
class Resources:
    """What Ray reserves for a hospital at work, and the cluster it runs on.

    `address` is an existing cluster's (``host:port`` or ``auto``); None starts Ray on this machine.
    """

    cpus_per_site: float
    gpus_per_site: float = 0
    address: str | None = None


def simulate(server_app: ServerApp, client_app: ClientApp, sites: int, resources: Resources, log_file: Path) -> None:
    """Run a federation of `sites` virtual nodes to its end, and leave Ray: one that was started here stops.

    Where this process has started Ray already, that Ray is used.

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

    Raises
    ------
    ConfigError
        Where Ray cannot be reached, or has not enough CPUs or GPUs for one site.
    FedSerDiffError
        Whatever of ours the ServerApp raised.
    """
    with _flower_log(log_file):
        _start_ray(resources)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run_simulation(
                    server_app,
                    client_app,
                    num_supernodes=sites,
                    backend_config={
                        "client_resources": {
                            "num_cpus": resources.cpus_per_site,
                            "num_gpus": resources.gpus_per_site,
                        }
                    },
                )
        except RuntimeError as error:
            ours = error.__cause__
            raise (ours if isinstance(ours, FedSerDiffError) else error) from None
        finally:
            ray.shutdown()


def _start_ray(resources: Resources) -> None:
    """Start or join Ray, and see that one site's resources exist on at least one machine."""
    if not ray.is_initialized():
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # Ray's coming default; without it every start warns
        try:
            ray.init(
                address=resources.address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"Ray at {resources.address or 'this machine'} cannot be used: {error}") from None
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


class _flower_log:
    """Send Flower's log to a file for as long as the context lasts."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._log = logging.getLogger("flwr")

    def __enter__(self) -> None:
        self._kept = self._log.handlers[:]
        self._handler = logging.FileHandler(self._file)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._log.handlers = [self._handler]

    def __exit__(self, *exception: object) -> None:
        self._log.handlers = self._kept
        self._handler.close()

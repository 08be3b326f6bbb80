"""The hospital process of a real federation, which ``fedserdiff hospital`` runs."""

import time
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from fedserdiff.compilation import check_compiler
from fedserdiff.data.site_cases import passed_over_note
from fedserdiff.deployment.kit import HospitalKit
from fedserdiff.device import settle_gpus
from fedserdiff.errors import BadCasesError
from fedserdiff.networks.coarse import check_coarse
from fedserdiff.report.bad_cases import with_list
from fedserdiff.report.console import progress_bars, warn
from sites.client_app import Premises, make_client_app
from sites.hospital import open_hospital
from sites.ledger import LEDGER_FILE
from sites.node import serve


def serve_hospital(console: Console, kit: Path) -> None:
    """Prepare a hospital's cases, then answer the coordinator until the process is stopped.

    Parameters
    ----------
    console : Console
        Console for progress and a line for each message.
    kit : Path
        The folder provisioned for the hospital, or its ``site.toml``.

    Raises
    ------
    FedSerDiffError
        As in `HospitalKit.load`, `check_coarse`, `check_compiler`, `open_hospital` and `serve`, and if a requested GPU
        cannot be used.
    """
    own = HospitalKit.load(kit)
    check_coarse(own.config)
    site = own.config.sites[own.site]
    _tell_of_gpus(console, own.config.machine.gpus_per_site)
    check_compiler(own.config.machine)
    with progress_bars(console) as show:
        try:
            hospital = open_hospital(site, own.config, own.cache, partial(show, f"preparing cases of {site.name}"))
        except BadCasesError as error:
            raise with_list(error, own.records / site.name) from None
    console.print(f"{site.name}: {hospital.counted}")
    if note := passed_over_note(site):
        warn(console, note)
    console.print(f"every answer is recorded in {escape(str(own.records / site.name / LEDGER_FILE))}", soft_wrap=True)

    def tell(line: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {escape(line)}", soft_wrap=True, highlight=False)

    serve(own, make_client_app(own.config, Premises(own.cache, own.records), own.site), tell)


def _tell_of_gpus(console: Console, gpus: float) -> None:
    """Check that torch can use the GPU that ``gpus`` asks for, and warn of a GPU that is not used.

    Raises
    ------
    ConfigError
        If torch cannot use it.
    """
    settle_gpus(gpus or None, "site.toml: gpus", partial(warn, console))
    if not gpus and torch.cuda.is_available():
        warn(console, "this machine has a GPU but does not train on it; set gpus = 1 in site.toml to use it")

"""nnU-Net's planner, preprocessing, trainer and predictor, on our cases and for our training time."""

import importlib
import json
import multiprocessing
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from multiprocessing.pool import ThreadPool
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from fedserdiff.data.cache import CachedCase
from fedserdiff.diffusion.refiner import Prediction
from fedserdiff.errors import ConfigError
from fedserdiff.settings.experiment import Settings
from sites.hospital import Hospital

from benchmarks.peers.budget import Budget
from benchmarks.peers.nnunet_dataset import DATASET, region_labels, write_dataset, write_split
from benchmarks.peers.trained import Trained, as_prediction

_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
_PLANS = "nnUNetPlans"
_ID = 1


def require_nnunet() -> None:
    """Check that nnU-Net is installed.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    if find_spec("nnunetv2") is None:
        raise ConfigError("nnU-Net is not installed: pip install 'fedserdiff[peers]', or leave it out of --methods")


def train_nnunet(configuration: str, hospital: Hospital, config: Settings, budget: Budget) -> Trained:
    """Plan, preprocess and train nnU-Net's `configuration`, ``2d`` or ``3d_fullres``, on a hospital's training cases.

    Planning and preprocessing do not count, like our own preparation. On a CPU, augmentation runs in this process, so
    that its time counts. Nothing is compiled. Files are written to a folder that is deleted at the end.
    """
    random.seed(config.seed)
    np.random.seed(config.seed)  # noqa: NPY002 - nnU-Net draws from the global generators
    torch.manual_seed(config.seed)
    with TemporaryDirectory(prefix="peers-") as folder:
        os.environ |= {"nnUNet_compile": "false"} | {name: str(Path(folder) / name) for name in _FOLDERS}
        for name in _FOLDERS:
            (Path(folder) / name).mkdir()
        write_dataset(hospital, Path(folder) / "nnUNet_raw" / DATASET)
        prepared = _preprocess(configuration, Path(folder) / "nnUNet_preprocessed" / DATASET)
        write_split(hospital, prepared / "splits_final.json")
        plans = json.loads((prepared / f"{_PLANS}.json").read_text()) | {"continue_training": False}
        about = json.loads((prepared / "dataset.json").read_text())
        if budget.device.type == "cpu":
            os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - nnU-Net's name; its planner needs another number
        own = importlib.import_module("benchmarks.peers.nnunet_trainer")
        trainer = own.TimedTrainer(plans, configuration, 0, about, budget.device)
        trainer.train_within(budget)
    convention = hospital.training[0].case.convention
    places = [list(region_labels(convention)).index(region) for region in convention.regions]
    return Trained(
        trainer.iterations, trainer.used_s, ("refined",), partial(_predict, _predictor(trainer, budget), places)
    )


def _preprocess(configuration: str, folder: Path) -> Path:
    """Let nnU-Net extract fingerprints, plan, and preprocess for a configuration; return `folder` with the results."""
    api = importlib.import_module("nnunetv2.experiment_planning.plan_and_preprocess_api")
    own = importlib.import_module("benchmarks.peers.nnunet_trainer")
    with _in_this_process():
        api.extract_fingerprint_dataset(_ID, own.QuickFingerprint, 1, verbose=False, show_progress_bar=False)
        api.plan_experiment_dataset(_ID)
        api.preprocess_dataset(_ID, _PLANS, [configuration], [1], show_progress_bar=False)
    return folder


@contextmanager
def _in_this_process() -> Iterator[None]:
    """Make nnU-Net's pools use threads or forks; otherwise each of a dozen processes would import torch again."""
    spawning, method = multiprocessing.get_context, multiprocessing.get_start_method()
    pools = SimpleNamespace(Pool=ThreadPool)  # the only attribute that nnU-Net uses of a context
    multiprocessing.get_context = lambda method=None: pools  # type: ignore[assignment]  # no context but its pools
    multiprocessing.set_start_method("fork", force=True)
    try:
        yield
    finally:
        multiprocessing.get_context = spawning
        multiprocessing.set_start_method(method, force=True)


def _predictor(trainer: Any, budget: Budget) -> Any:
    """Return nnU-Net's predictor for a trained network, with its default half-overlapping, mirrored windows."""
    predicting = importlib.import_module("nnunetv2.inference.predict_from_raw_data")
    trainer.set_deep_supervision_enabled(False)
    predictor = predicting.nnUNetPredictor(device=budget.device, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    return predictor


def _predict(predictor: Any, places: list[int], cached: CachedCase) -> Prediction:
    """Segment a case; `places` are the positions of our regions among the predictor's."""
    image = np.asarray(cached.prepared.image, np.float32).transpose(0, 3, 2, 1)  # (Z, Y, X), as SimpleITK reads it
    spacing = {"spacing": list(cached.prepared.geometry.grid_spacing_mm[::-1])}
    _, found = predictor.predict_single_npy_array(image, spacing, None, None, True)
    regions = found if predictor.label_manager.has_regions else found[1:]  # the first label is background
    ordered = np.ascontiguousarray(regions[places].transpose(0, 3, 2, 1), np.float32)
    return as_prediction(torch.from_numpy(ordered))

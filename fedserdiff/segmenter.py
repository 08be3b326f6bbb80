"""A trained student as a segmenter of whole scans, which needs neither Flower nor Ray nor ground truth."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedserdiff.data.nifti import Volume
from fedserdiff.data.preprocess import Geometry, prepare_scan
from fedserdiff.data.releases import Convention
from fedserdiff.data.scans import Scan, find_scans, named_scan
from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.inference import predict_volume
from fedserdiff.diffusion.refiner import Prediction, Student
from fedserdiff.errors import DataError
from fedserdiff.evaluation.postprocessing import Thresholds, given_thresholds
from fedserdiff.seeding import generator
from fedserdiff.settings.experiment import Settings


@dataclass(frozen=True)
class Segmentation:
    """A student's segmentation of one scan, on the scan's voxels, with RAS axes as in `scan`.

    Attributes
    ----------
    scan : Volume
        The scan's first modality, as it was read.
    convention : Convention
        The model's regions, and the labels with which they are written by default.
    """

    scan: Volume
    convention: Convention
    _prediction: Prediction
    _geometry: Geometry
    _thresholds: Thresholds | None = None

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """Refined probability of each region, in [0, 1]: shape (regions, X, Y, Z)."""
        return self._whole(self._prediction.refined)

    @property
    def error_map(self) -> NDArray[np.float32]:
        """Correction Ê of the coarse network by the diffusion, in [−1, 1]: shape (regions, X, Y, Z)."""
        return self._whole(self._prediction.error_map)

    def labels(self, convention: Convention | None = None) -> NDArray[np.uint16]:
        """Return the label map of shape (X, Y, Z), in a convention's labels, after the settings' post-processing."""
        convention = convention or self.convention
        if self._thresholds is None:
            return convention.label_map(self.probabilities)
        masks = convention.written(self.probabilities)
        kept = self._thresholds.apply(masks, convention, self._geometry.voxel_ml)
        return convention.label_map(kept.astype(np.float32))

    def _whole(self, volume: torch.Tensor) -> NDArray[np.float32]:
        geometry = self._geometry
        box = (slice(start, start + n) for start, n in zip(geometry.box_start, geometry.box_shape, strict=True))
        whole = np.zeros((len(volume), *geometry.shape), np.float32)
        whole[(slice(None), *box)] = geometry.to_scan(volume).numpy()
        return whole


@dataclass(frozen=True)
class Segmenter:
    """A student with the adapter of the hospital whose scans it segments, and the meaning of its regions.

    Attributes
    ----------
    student : Student
    config : Settings
        Settings of the run that trained it, without its sites.
    convention : Convention
        Modalities in the student's order, and the labels of its regions.
    channels : mapping of str to int
        Number of each modality in 4D files or file names, if the dataset declares it; otherwise empty.
    adapter : SiteAdapter or None
    about : mapping of str to str
        Origin of the model, as texts: method, seed, data, site.
    """

    student: Student
    config: Settings
    convention: Convention
    channels: Mapping[str, int]
    adapter: SiteAdapter | None
    about: Mapping[str, str]

    def segment(self, scan: Scan) -> Segmentation:
        """Segment a scan.

        The initial noise of refinement depends on the configuration's seed and the scan's name, as it does when a
        hospital scores the student, so the same case gives the same mask.

        Raises
        ------
        DataError
            As for `prepare_scan`.
        """
        config = self.config
        ready = prepare_scan(scan.images, scan.channels, config.data.grid, config.data.spacing_mm)
        noise = generator(config.seed, "evaluation", scan.name, device=self.student.device)
        how = config.scoring
        prediction = predict_volume(
            self.student, ready.image, how.sampling_steps, noise, self.adapter, how.flips, how.overlap
        )
        return Segmentation(ready.first, self.convention, prediction, ready.geometry, given_thresholds(how))

    def segment_files(self, name: str, **images: Path) -> Segmentation:
        """Segment a scan given one file per modality, such as ``t1=…, t1ce=…, t2=…, flair=…``."""
        return self.segment(named_scan(name, {m: Path(file) for m, file in images.items()}, self.convention.modalities))

    def segment_folder(self, folder: Path | str) -> Segmentation:
        """Segment the one scan in a case's folder, with files named as in any BraTS release or in its dataset.

        Raises
        ------
        DataError
            If the folder holds no scan, or more than one.
        """
        found = find_scans([Path(folder)], self.convention.modalities, self.channels)
        if len(found.scans) != 1:
            why = "; ".join(found.left) or f"holds {len(found.scans)} scans"
            raise DataError(f"{folder}: {why}: give the folder of one case")
        return self.segment(found.scans[0])

    def to(self, device: torch.device) -> "Segmenter":
        """Move the student and adapter to a device, and return the segmenter."""
        self.student.to(device)
        if self.adapter is not None:
            self.adapter.to(device)
        return self

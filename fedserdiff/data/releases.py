"""The naming and label convention of each BraTS release: declared here, never guessed from data.

Sources: the data pages of the BraTS 2020, 2021, 2023 and 2024 challenges; Baid et al., arXiv 2107.02314 (2021);
de Verdier et al., arXiv 2405.18368 (2024, post-treatment glioma with the resection cavity as label 4). Datasets of
other organs declare theirs themselves: `fedserdiff.data.decathlon`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedserdiff import plugins
from fedserdiff.errors import ConfigError, DataError

BRATS_MODALITIES = ("t1", "t1ce", "t2", "flair")
"""Order of the image channels of a federation of BraTS releases."""

BRATS_REGIONS = ("tc", "wt", "et")
"""Order of its region channels: MONAI's (tumour core, whole tumour, enhancing tumour)."""


_LEAST_PROBABILITY = 1e-6  # so that 0 and 1 can be outvoted


@dataclass(frozen=True)
class Convention:
    """What a hospital's files mean: its images' modalities, its segmentations' labels, and the regions they make up.

    Attributes
    ----------
    name : str
        Name used in federation files, such as ``brats2021``.
    modalities : tuple of str
        In the order of the image channels.
    regions : mapping of str to tuple of int
        In the order of the region channels: label values whose union is each region.
    labels : tuple of int
        Every label value that is defined, background included.
    """

    name: str
    modalities: tuple[str, ...]
    regions: Mapping[str, tuple[int, ...]]
    labels: tuple[int, ...]

    def agreed(self, modalities: Sequence[str], regions: Sequence[str]) -> Self:
        """Return the convention with the modalities and regions that a federation agreed on, in its order.

        Raises
        ------
        DataError
            Where one of them is not among the convention's.
        """
        for what, wanted, known in (("modality", modalities, self.modalities), ("region", regions, self.regions)):
            absent = [name for name in wanted if name not in known]
            if absent:
                raise DataError(f"{self.name} has no {what} {', '.join(absent)}; it has {', '.join(known)}")
        return replace(self, modalities=tuple(modalities), regions={name: self.regions[name] for name in regions})

    def region_masks(self, labels: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Turn a label map of shape (X, Y, Z) into region masks of shape (regions, X, Y, Z).

        Raises
        ------
        DataError
            Where a voxel holds a label that is not defined.
        """
        unknown = sorted(set(np.unique(labels).tolist()) - set(self.labels))
        if unknown:
            others = [r.name for r in RELEASES.values() if set(unknown) <= set(r.labels)]
            hint = f"; release {' or '.join(others)} has it: is the site's release right?" if others else ""
            raise DataError(
                f"label {', '.join(map(str, unknown))} is not one of {self.name}'s "
                f"({', '.join(map(str, self.labels))}){hint}"
            )
        return np.stack([np.isin(labels, values) for values in self.regions.values()])

    @property
    def painting_order(self) -> tuple[int, ...]:
        """Numbers of the regions from the one of most labels to the one of fewest: smaller ones are painted over."""
        sizes = [len(values) for values in self.regions.values()]
        return tuple(sorted(range(len(sizes)), key=lambda number: -sizes[number]))

    def label_map(self, probabilities: NDArray[np.floating]) -> NDArray[np.uint16]:
        """Return the most probable label map of shape (X, Y, Z).

        Where regions of probability ½ and more are just those of a label, as nested and disjoint regions mostly are,
        it is that label. Elsewhere no label says what they say, such as enhancing tumour that is no tumour: then it is
        the label whose regions, and whose alone, are most probable together, p being independent (our choice; nnU-Net
        lets the smallest region win).

        Parameters
        ----------
        probabilities : ndarray of shape (regions, X, Y, Z)
            In [0, 1].
        """
        members = np.array([[label in values for values in self.regions.values()] for label in self.labels])
        pairs = zip(map(tuple, members.tolist()[::-1]), self.labels[::-1], strict=True)
        own = dict(pairs)  # of labels alike the first one stands
        own |= {(False,) * len(self.regions): 0}  # background, and what is no region's
        said = np.asarray(probabilities >= 0.5)
        painted = np.zeros(said.shape[1:], np.uint16)
        unsaid = said.any(0)
        for member, label in own.items():
            here = np.logical_and.reduce([of if inside else ~of for of, inside in zip(said, member, strict=True)])
            painted[here] = label
            unsaid &= ~here
        if unsaid.any():
            p = np.clip(probabilities[:, unsaid].astype(np.float64), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
            inside = np.array(sorted(own, key=sum, reverse=True), np.float64)  # of equals, the one of most regions
            together = inside @ np.log(p) + (1 - inside) @ np.log1p(-p)
            labels = np.array([own[tuple(map(bool, row))] for row in inside], np.uint16)
            painted[unsaid] = labels[together.argmax(0)]
        return painted

    def written(self, probabilities: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return region masks as a scorer of files sees them: of the label map, (regions, X, Y, Z)."""
        return self.region_masks(self.label_map(probabilities))


@dataclass(frozen=True)
class Release(Convention):
    """One BraTS release's convention.

    Attributes
    ----------
    case_pattern : str
        Regular expression of a case's folder name; its group ``patient`` is the patient's identity.
    example : str
        A case name in this convention, for error messages.
    separator : str
        Between the case's name and a file's suffix.
    suffixes : mapping of str to str
        File suffix of each modality.
    grid : tuple of int
        Voxels of a volume at 1 mm.
    seg_aliases : mapping of str to str
        Segmentations that the release itself ships under another name.
    """

    case_pattern: str
    example: str
    separator: str
    suffixes: Mapping[str, str]
    grid: tuple[int, int, int]
    seg_aliases: Mapping[str, str] = field(default_factory=dict)

    def patient_of(self, case_name: str) -> str | None:
        """Return the patient's identity in `case_name`, or None where the name is not of this release."""
        match = re.fullmatch(self.case_pattern, case_name)
        return match.group("patient") if match else None

    def file_stem(self, case_name: str, channel: str) -> str:
        """Return the file name, without extension, of a modality (or ``seg``) of a case."""
        return f"{case_name}{self.separator}{self.suffixes.get(channel, channel)}"


_OLD_SUFFIXES = {"t1": "t1", "t1ce": "t1ce", "t2": "t2", "flair": "flair"}
_GLI_SUFFIXES = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
_ET_IS_4 = {"tc": (1, 4), "wt": (1, 2, 4), "et": (4,)}
_ET_IS_3 = {"tc": (1, 3), "wt": (1, 2, 3), "et": (3,)}

ENTRY_POINTS = "fedserdiff.releases"
"""The group of entry points by which an installed package brings releases, each a `Release`."""

RELEASES: Mapping[str, Release] = MappingProxyType(
    {
        release.name: release
        for release in (
            Release(
                name="brats2020",
                modalities=BRATS_MODALITIES,
                case_pattern=r"(?P<patient>BraTS20_Training_\d{3,})",
                example="BraTS20_Training_001",
                separator="_",
                suffixes=_OLD_SUFFIXES,
                regions=_ET_IS_4,
                labels=(0, 1, 2, 4),
                grid=(240, 240, 155),
                # The one file of the published training set that does not follow the convention.
                seg_aliases={"BraTS20_Training_355": "W39_1998.09.19_Segm"},
            ),
            Release(
                name="brats2021",
                modalities=BRATS_MODALITIES,
                case_pattern=r"(?P<patient>BraTS2021_\d{5})",
                example="BraTS2021_00000",
                separator="_",
                suffixes=_OLD_SUFFIXES,
                regions=_ET_IS_4,
                labels=(0, 1, 2, 4),
                grid=(240, 240, 155),
            ),
            Release(
                name="brats2023-gli",
                modalities=BRATS_MODALITIES,
                case_pattern=r"(?P<patient>BraTS-GLI-\d{5})-\d{3}",
                example="BraTS-GLI-00000-000",
                separator="-",
                suffixes=_GLI_SUFFIXES,
                regions=_ET_IS_3,
                labels=(0, 1, 2, 3),
                grid=(240, 240, 155),
            ),
            Release(
                name="brats2024-gli",
                modalities=BRATS_MODALITIES,
                case_pattern=r"(?P<patient>BraTS-GLI-\d{5})-\d{3}",
                example="BraTS-GLI-02064-100",
                separator="-",
                suffixes=_GLI_SUFFIXES,
                # Label 4 is the resection cavity: background for TC, WT and ET alike.
                regions=_ET_IS_3,
                labels=(0, 1, 2, 3, 4),
                grid=(182, 218, 182),
            ),
        )
    }
)


def get_release(name: str) -> Release:
    """Return the release called `name`: BraTS's, or one that an installed package or ``module:object`` declares.

    Raises
    ------
    ConfigError
        Where no such release is declared; the text lists those that are.
    """
    if name in RELEASES:
        return RELEASES[name]
    release = plugins.load(name, ENTRY_POINTS, RELEASES, "release")
    if not isinstance(release, Release):
        raise ConfigError(f"release {name}: is a {type(release).__name__}, no Release")
    return release


def is_foreign(name: str) -> bool:
    """Say whether a release's name is of code that does not come with fedserdiff."""
    return plugins.is_foreign(name, ENTRY_POINTS, RELEASES)

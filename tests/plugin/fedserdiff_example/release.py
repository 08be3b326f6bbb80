"""The release of a hospital with its own file names, and label 7 for the enhancing tumour."""

from fedserdiff.data.releases import BRATS_MODALITIES, Release

RELEASE = Release(
    name="north-mri",
    modalities=BRATS_MODALITIES,
    regions={"tc": (1, 7), "wt": (1, 2, 7), "et": (7,)},
    labels=(0, 1, 2, 7),
    case_pattern=r"(?P<patient>NORTH-\d{3})",
    example="NORTH-001",
    separator="_",
    suffixes={"t1": "t1", "t1ce": "t1ce", "t2": "t2", "flair": "flair"},
    grid=(12, 14, 10),
)

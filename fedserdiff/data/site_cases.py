"""A site's cases, whatever the layout of its files."""

from pathlib import Path

from fedserdiff.config import ExperimentConfig, Site
from fedserdiff.data.cases import BadCases, Case, find_cases
from fedserdiff.data.decathlon import MSD, DecathlonDataset, find_decathlon_cases, read_dataset
from fedserdiff.data.releases import Release, get_release
from fedserdiff.errors import ConfigError


def convention_of(site: Site, config: ExperimentConfig) -> Release | DecathlonDataset:
    """Return what a site's files mean, in the modalities and regions that the config agrees on.

    Raises
    ------
    DataError
        As `read_dataset`, and where the site lacks one of them.
    """
    convention = read_dataset(Path(site.path)) if site.release == MSD else get_release(site.release)
    return convention.agreed(config.modalities, config.regions)


def site_cases(site: Site, config: ExperimentConfig, bad: BadCases | None = None) -> list[Case]:
    """Return a site's cases by name, with the modalities and regions that the config agrees on.

    Cases that cannot be used are entered in `bad`; without it they are refused.

    Raises
    ------
    DataError
        As `convention_of`, and `find_cases` or `find_decathlon_cases`.
    """
    folder, convention = Path(site.path), convention_of(site, config)
    if isinstance(convention, DecathlonDataset):
        return find_decathlon_cases(folder, convention, site.cases, bad)
    return find_cases(folder, convention, site.cases, bad)


def check_release(name: str) -> None:
    """See that a site's release is one that `site_cases` can read.

    Raises
    ------
    ConfigError
        Where it is not; the text lists those that are.
    """
    if name != MSD:
        try:
            get_release(name)
        except ConfigError as error:
            raise ConfigError(f"{error}, or {MSD} for a folder with a dataset.json") from None


def patient_of(release: str, case: str) -> str:
    """Return the patient's identity in the name of a site's case."""
    return (None if release == MSD else get_release(release).patient_of(case)) or case

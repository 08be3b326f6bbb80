"""A site's cases, whatever the layout of its files."""

from pathlib import Path

from fedserdiff.data.cases import BadCases, Case, find_cases
from fedserdiff.data.decathlon import MSD, DecathlonDataset, find_decathlon_cases, read_dataset, unlabelled_images
from fedserdiff.data.layout import look
from fedserdiff.data.releases import Release, get_release
from fedserdiff.errors import ConfigError
from fedserdiff.settings.experiment import Settings, Site

_MOST_NAMES = 5  # of what was passed over


def convention_of(site: Site, config: Settings) -> Release | DecathlonDataset:
    """Return what a site's files mean, in the modalities and regions that the config agrees on.

    Raises
    ------
    DataError
        As `read_dataset`, and where the site lacks one of them.
    """
    convention = read_dataset(Path(site.path)) if site.release == MSD else release_of(site)
    return convention.agreed(config.data.modalities, config.data.regions)


def site_cases(site: Site, config: Settings, bad: BadCases | None = None) -> list[Case]:
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


def passed_over_note(site: Site) -> str | None:
    """Say what lies in a site's folder and may be a case, but is taken for none; None where nothing does.

    Where the site names its cases, others are left out on purpose.

    Raises
    ------
    DataError
        Where its folder cannot be read.
    """
    if site.cases:
        return None
    if site.release == MSD:
        others, why = unlabelled_images(Path(site.path)), "without a label map"
    else:
        others, why = look(Path(site.path), release_of(site)).others, f"named as no case of {site.release}"
    more = f" and {len(others) - _MOST_NAMES} more" if len(others) > _MOST_NAMES else ""
    return f"site {site.name}: passed over, {why}: {', '.join(others[:_MOST_NAMES])}{more}" if others else None


def release_of(site: Site) -> Release:
    """Return a site's release: the one that its experiment declares, or the one of this name.

    Raises
    ------
    ConfigError
        As `get_release`.
    """
    return get_release(site.release) if site.declared is None else site.declared


def check_release(site: Site) -> None:
    """See that a site's release is one that `site_cases` can read.

    Raises
    ------
    ConfigError
        Where it is not; the text lists those that are.
    """
    if site.release != MSD:
        try:
            release_of(site)
        except ConfigError as error:
            raise ConfigError(f"{error}, or {MSD} for a folder with a dataset.json") from None


def patient_of(site: Site | str, case: str) -> str:
    """Return the patient's identity in the name of a case of a site, or of a release by its name."""
    if isinstance(site, str):
        site = Site("", site, "")
    return (None if site.release == MSD else release_of(site).patient_of(case)) or case

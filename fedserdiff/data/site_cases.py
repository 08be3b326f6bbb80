"""The cases of a site, in any supported file layout."""

from pathlib import Path

from fedserdiff.data.cases import BadCases, Case, find_cases
from fedserdiff.data.decathlon import MSD, DecathlonDataset, find_decathlon_cases, read_dataset, unlabelled_images
from fedserdiff.data.layout import look
from fedserdiff.data.releases import Release, get_release
from fedserdiff.errors import ConfigError
from fedserdiff.settings.experiment import Settings, Site
from fedserdiff.text import first_few

_MOST_NAMES = 5  # ignored names in one note


def convention_of(site: Site, config: Settings) -> Release | DecathlonDataset:
    """Return the convention of a site's files, with the modalities and regions of the configuration.

    Raises
    ------
    DataError
        As for `read_dataset`, and if the site lacks one of them.
    """
    convention = read_dataset(Path(site.path)) if site.release == MSD else release_of(site)
    return convention.agreed(config.data.modalities, config.data.regions)


def site_cases(site: Site, config: Settings, bad: BadCases | None = None) -> list[Case]:
    """Return a site's cases by name, with the modalities and regions of the configuration.

    Cases that cannot be used are added to `bad`; without `bad`, they raise an error.

    Raises
    ------
    DataError
        As for `convention_of`, `find_cases` and `find_decathlon_cases`.
    """
    folder, convention = Path(site.path), convention_of(site, config)
    if isinstance(convention, DecathlonDataset):
        return find_decathlon_cases(folder, convention, site.cases, bad)
    return find_cases(folder, convention, site.cases, bad)


def passed_over_note(site: Site) -> str | None:
    """Return a note on entries of a site's folder that may be cases but were ignored; None if there are none.

    If the site names its cases, the others are left out on purpose and not reported.

    Raises
    ------
    DataError
        If its folder cannot be read.
    """
    if site.cases:
        return None
    if site.release == MSD:
        others, why = unlabelled_images(Path(site.path)), "without a label map"
    else:
        others, why = look(Path(site.path), release_of(site)).others, f"not named as a case of {site.release}"
    return f"site {site.name}: ignored, {why}: {first_few(others, _MOST_NAMES)}" if others else None


def release_of(site: Site) -> Release:
    """Return a site's release: the one that its experiment declares, or the one with this name.

    Raises
    ------
    ConfigError
        As for `get_release`.
    """
    return get_release(site.release) if site.declared is None else site.declared


def check_release(site: Site) -> None:
    """Check that `site_cases` can read a site's release.

    Raises
    ------
    ConfigError
        If it cannot; the message lists the supported releases.
    """
    if site.release != MSD:
        try:
            release_of(site)
        except ConfigError as error:
            raise ConfigError(f"{error}, or {MSD} for a folder with a dataset.json") from None


def patient_of(site: Site | str, case: str) -> str:
    """Return the patient's identity in a case name; `site` is the site or the name of a release."""
    if isinstance(site, str):
        site = Site("", site, "")
    return (None if site.release == MSD else release_of(site).patient_of(case)) or case

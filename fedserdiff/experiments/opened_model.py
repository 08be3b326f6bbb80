"""Loading of models for segmentation: a run's final student or an exported one, with a hospital's adapter."""

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedserdiff.data.decathlon import DecathlonDataset
from fedserdiff.data.site_cases import convention_of
from fedserdiff.errors import ConfigError
from fedserdiff.methods import get_method, label
from fedserdiff.model_file import load_model, load_student
from fedserdiff.segmenter import Segmenter
from fedserdiff.settings.experiment import PROVENANCE, Settings, Site
from sites.adapters import learns_adapter, load_adapter
from sites.personal import load_personal, personal_names
from strategies.run_directory import RunDirectory

_STAYS, _INCLUDED = "stays at the hospital", "included"
_LAST = (1 << 31, 0)  # after any stage
_OF_STAGE = "student-of-stage-"


def open_model(model: Path, site: str | None, allow: Collection[str] = ()) -> Segmenter:
    """Open a run's directory or an exported file.

    Parameters
    ----------
    model : Path
        A run's directory or an exported file.
    site : str, optional
        The hospital whose scans the model will segment: its name in the run, or the folder with what it keeps; at a
        deployed hospital that is ``records/NAME``.
    allow : collection of str, optional
        As in `load_model`, for a file.

    Raises
    ------
    ConfigError
        As in `load_model`, and if `model` is neither, if the run has no such hospital, if the hospital must be named
        and is not, or if its adapter is stored elsewhere.
    DataError
        As in `load_model` and `convention_of`.
    RecordsError
        As in `load_adapter`.
    """
    opened = open_run(model, site) if model.is_dir() else _of_file(model, site, allow)
    name = opened.about.get("site", "its hospital")
    if opened.adapter is None and opened.about.get("adapter") == _STAYS:
        raise ConfigError(
            f"{model}: was trained with an adapter that stays at {name}; give its folder with --site records/{name}"
        )
    if opened.about.get("personal weights") == _STAYS:
        raise ConfigError(f"{model}: lacks weights that stay at {name}; give its folder with --site records/{name}")
    return opened


def _of_file(file: Path, site: str | None, allow: Collection[str]) -> Segmenter:
    model = load_model(file, allow=allow)
    if site is None:
        return model
    folder = Path(site)
    if not folder.is_dir():
        raise ConfigError(
            f"--site: {site}: is not a folder; {file.name} belongs to one hospital already, so give the folder of its "
            "records"
        )
    personal = load_personal(model.student, folder, model.config, folder.name, _LAST)
    adapter = load_adapter(folder, model.config, folder.name, _LAST)
    if adapter is None and not personal:
        raise ConfigError(f"--site: {folder}: contains neither an adapter nor personal weights")
    own = {"personal weights": _INCLUDED} if personal else {}
    return replace(model, adapter=adapter or model.adapter, about={**model.about, **own})


def open_run(run: Path, site: str | None) -> Segmenter:
    """Open a run's directory as `open_model` does; parts that a hospital keeps may be missing, as ``about`` says."""
    config, data = _config(run)
    folder = None if site is None else Path(site)
    named = None if folder is None else _named(folder.name, config, run)
    if named is None:
        if get_method(config.method.name).knows_origin:
            names = ", ".join(one.name for one in config.sites)
            raise ConfigError(
                f"--site: {label(config.method.name)} needs to know the hospital that scans come from; give one of "
                f"{names}"
            )
        named = config.sites[-1]
    file = RunDirectory(run).student_of(named.name)
    if not file.is_file():
        raise ConfigError(f"{run}: has no student.pt; is the run finished?")
    of_hospitals = run / "hospitals"  # only in a simulation's directory
    keeps = of_hospitals / named.name
    if folder is not None and folder.is_dir() and not (keeps.is_dir() and site == named.name):
        keeps = folder
    elsewhere = not keeps.is_dir() and not of_hospitals.is_dir()
    before = (_stages_done(run, config) + 1, 0)
    adapter = None if elsewhere else load_adapter(keeps, config, named.name, before)
    stays = elsewhere and learns_adapter(config, named.name)
    student = load_student(config, file)
    personal = not elsewhere and load_personal(student, keeps, config, named.name, before)
    about = {
        "method": config.method.name,
        "seed": str(config.seed),
        "data": data,
        "site": "any" if site is None else named.name,
        "adapter": _INCLUDED if adapter is not None else _STAYS if stays else "none",
    }
    if personal_names(student, config):
        about["personal weights"] = _INCLUDED if personal else _STAYS if elsewhere else "none"
    convention = convention_of(named, config)
    channels = convention.channels if isinstance(convention, DecathlonDataset) else {}
    return Segmenter(student, config.replace(sites=()), convention, channels, adapter, about)


def _config(run: Path) -> tuple[Settings, str]:
    """Return a run's config and the name of its data."""
    file = run / "config.json"
    try:
        values: dict[str, Any] = json.loads(file.read_bytes())
        data = values[PROVENANCE].get("name", "of a deployed federation")
        return Settings.from_dict(values), str(data)
    except OSError as error:
        raise ConfigError(
            f"{run}: is not the directory of a run: config.json cannot be read ({error.strerror})"
        ) from None
    except (ConfigError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{file}: was not written by a run of this version ({error})") from None


def _named(name: str, config: Settings, run: Path) -> Site:
    for site in config.sites:
        if site.name == name:
            return site
    raise ConfigError(
        f"--site: {name!r} is not a site of {run}; its sites: {', '.join(site.name for site in config.sites)}"
    )


def _stages_done(run: Path, config: Settings) -> int:
    """Return the stage of a run's student, which need not be the last."""
    numbers = [file.stem.removeprefix(_OF_STAGE) for file in run.glob(f"{_OF_STAGE}*.pt")]
    return max((int(number) for number in numbers if number.isdecimal()), default=config.most_stages)

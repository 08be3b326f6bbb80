"""The student that a hospital uses at the end of a simulated run, with what the hospital keeps for itself."""

import torch

from fedserdiff.diffusion.adapter import SiteAdapter
from fedserdiff.diffusion.refiner import Student
from fedserdiff.model_file import load_student
from fedserdiff.settings.experiment import Settings
from sites.adapters import load_adapter
from sites.personal import load_personal
from strategies.run_directory import RunDirectory


def final_student(
    run: RunDirectory, config: Settings, site: str, device: torch.device
) -> tuple[Student, SiteAdapter | None]:
    """Load the student that a site uses at the end, in evaluation mode with the site's own weights, and its adapter.

    Raises
    ------
    ConfigError, RecordsError, DataError
        As in `load_student`, `load_personal` and `load_adapter`.
    """
    student = load_student(config, run.student_of(site))
    ended = (config.most_stages + 1, 0)
    load_personal(student, run.hospitals / site, config, site, ended)
    adapter = load_adapter(run.hospitals / site, config, site, ended)
    return student.to(device).eval(), None if adapter is None else adapter.to(device)

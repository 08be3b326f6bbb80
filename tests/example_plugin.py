"""The package with a method and a network outside the project: its place and its installation."""

import tomllib
from pathlib import Path

SOURCES = Path(__file__).parent / "plugin"
"""On the path, its objects can be named as ``module:object``."""

METHOD = "fedserdiff_example.method:METHOD"
NETWORK = "fedserdiff_example.network:build"


def install(folder: Path) -> Path:
    """Write into a folder what pip would write of the package beside its code, for importlib.metadata to find."""
    project = tomllib.loads((SOURCES / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items())])
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    return folder

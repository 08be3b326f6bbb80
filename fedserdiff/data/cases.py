"""Search for the cases of a hospital on disk."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedserdiff.data.layout import called_after_a_case, entries_of, look, stem_of
from fedserdiff.data.nifti import EXTENSIONS, SHADOWS, check_is_file, is_directory, unreadable
from fedserdiff.data.release_fields import SEG
from fedserdiff.data.releases import RELEASES, Convention, Release
from fedserdiff.errors import BadCasesError, CaseFault, DataError, Faults

BadCases = dict[str, tuple[str, ...]]
"""Faults of each case that cannot be used, by case name."""


@dataclass(frozen=True)
class Case:
    """One scan on disk, with its expert segmentation.

    Attributes
    ----------
    name : str
        Name of the case.
    patient : str
        Identity of the patient within the release; a patient may have several cases.
    images : tuple of Path
        One file per modality, in the convention's order.
    seg : Path
        File of the expert segmentation.
    convention : Convention
        Modalities, labels and regions of the files.
    channels : tuple of int
        If one file holds several modalities, the number of each within it; otherwise empty.
    """

    name: str
    patient: str
    images: tuple[Path, ...]
    seg: Path
    convention: Convention = field(compare=False, repr=False)
    channels: tuple[int, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the case, each once."""
        return tuple(dict.fromkeys((*self.images, self.seg)))


@dataclass(frozen=True)
class SkippedCase:
    """A case that cannot be used and was left out, as the user requested.

    `role` is the split it belonged to: ``training``, ``validation`` or ``test``.
    """

    site: str
    case: str
    role: str
    faults: Sequence[str]

    @property
    def rows(self) -> list[CaseFault]:
        """The case's faults, each with its file."""
        return rows_of({self.case: tuple(self.faults)}, self.site)

    def __str__(self) -> str:
        held_out = "" if self.role == "training" else f", a {self.role} case"
        return f"{self.site}: {self.case}{held_out}: {'; '.join(self.faults)}"


def settle(found: BadCases, bad: BadCases | None, site: str = "") -> None:
    """Add cases that cannot be used to `bad`; if `bad` is None, raise one error that covers all of them."""
    if bad is not None:
        bad.update(found)
    elif found:
        raise BadCasesError(*rows_of(found, site))


def rows_of(bad: BadCases, site: str = "") -> list[CaseFault]:
    """Return the faults of all cases that cannot be used, each with its file, sorted by case name."""
    return [CaseFault.of(site, case, fault) for case in sorted(bad) for fault in bad[case]]


def find_cases(folder: Path, release: Release, only: Sequence[str] = (), bad: BadCases | None = None) -> list[Case]:
    """Return the cases of `release` in `folder` and its subfolders, by name.

    `only` restricts the cases to the names given. Files that do not follow the release's naming are ignored (releases
    ship tables and read-me files). Cases that lack a file, or have something else in its place, are added to `bad`;
    without `bad`, they raise an error.

    Raises
    ------
    DataError
        If the folder is missing or cannot be read, holds no case of the release, or lacks a case of `only`.
    BadCasesError
        Without `bad`: names all cases that cannot be used.
    """
    if not is_directory(folder):
        raise DataError(f"{folder}: no such directory")
    layout = look(folder, release)
    wanted = set(only or (*layout.places, *layout.bad))
    found: BadCases = {name: faults for name, faults in layout.bad.items() if name in wanted}
    cases = []
    for name in sorted(wanted & set(layout.places)):
        try:
            cases.append(_case(name, layout.places[name], release))
        except DataError as error:
            found[name] = error.faults
    there = {case.name for case in cases} | set(found)
    missing = [name for name in only if name not in there]
    if missing and (layout.places or layout.bad):
        raise DataError(f"{folder}: no case {', '.join(missing)} of {release.name} here")
    if not there:
        raise DataError(f"{folder}: no case of {release.name} here{_what_is_here(folder, release, 'folders')}")
    settle(found, bad)
    return cases


def find_label_maps(folder: Path, release: Release) -> dict[str, Path]:
    """Return the segmentations of `release` in `folder` by case name, sorted; the images need not be there.

    A case's segmentation is a file in `folder`, called ``CASE.nii.gz`` or as in the release, such as
    ``CASE_seg.nii.gz``; or it is in the case's own folder, as in the release. Other files are ignored.

    Raises
    ------
    DataError
        If the folder is missing or cannot be read, holds no segmentation of the release, holds two of one case, or has
        something else in a segmentation's place; or if a case's folder has no segmentation.
    """
    if not is_directory(folder):
        raise DataError(f"{folder}: no such directory")
    found: dict[str, Path] = {}
    faults = Faults(DataError)
    for entry in sorted(entries_of(folder)):
        name = _case_name(entry, release)
        if release.patient_of(name) is None:
            continue
        with faults.caught():
            if name != entry.name:
                check_is_file(entry)
                path = entry
            elif is_directory(entry):
                path = _file(entry.name, [entry], release, SEG)
            else:
                continue
            if name in found:
                raise DataError(f"{path}: a second segmentation of case {name}, beside {found[name]}: keep one")
            found[name] = path
    faults.check()
    if not found:
        raise DataError(f"{folder}: no segmentation of {release.name} here{_what_is_here(folder, release, 'files')}")
    return found


def passed_over(folder: Path, release: Release) -> list[str]:
    """Return the names of entries of a folder that may be cases but do not follow the naming of `release`.

    These are folders and NIfTI files, except files named after a case, such as ``CASE-t1c.nii.gz``.

    Raises
    ------
    DataError
        If the folder cannot be read.
    """
    names = []
    for entry in sorted(entries_of(folder)):
        name = _case_name(entry, release)
        if entry.name.startswith(SHADOWS) or called_after_a_case(name, release):
            continue
        if entry.name.lower().endswith(EXTENSIONS) or is_directory(entry):
            names.append(entry.name)
    return names


def _case_name(entry: Path, release: Release) -> str:
    """Return the case name in a segmentation's file name; a folder's name is returned unchanged."""
    for extension in EXTENSIONS:
        if entry.name.endswith(extension):
            return entry.name.removesuffix(extension).removesuffix(release.file_stem("", "seg"))
    return entry.name


def _what_is_here(folder: Path, release: Release, expected: str) -> str:
    """Describe what a folder without cases of `release` holds instead of the expected files or folders."""
    entries = entries_of(folder)
    if not entries:
        return ": the directory is empty"
    for other in RELEASES.values():
        if expected == "files":
            count = sum(other.patient_of(_case_name(entry, other)) is not None for entry in entries)
        else:
            count = len(look(folder, other).places)
        if count and other is not release:
            return f", but {count} of {other.name}: is the release right?"
    return f"; expected {expected} such as {release.example}{EXTENSIONS[0] if expected == 'files' else ''}"


def _case(name: str, places: Sequence[Path], release: Release) -> Case:
    patient = release.patient_of(name)
    assert patient is not None, "callers pass names that follow the release's pattern"
    files, faults = [], Faults(DataError)
    for channel in (*release.modalities, SEG):
        with faults.caught():
            files.append(_file(name, places, release, channel))
    faults.check()
    return Case(name, patient, images=tuple(files[:-1]), seg=files[-1], convention=release)


def _file(name: str, places: Sequence[Path], release: Release, channel: str) -> Path:
    stems = [release.file_stem(name, channel)]
    if channel == SEG and name in release.seg_aliases:
        stems.append(release.seg_aliases[name])
    what = "segmentation" if channel == SEG else f"modality {channel}"
    return existing_file(places, stems, f"{what} of case {name}")


def existing_file(folders: Sequence[Path], stems: Sequence[str], what: str) -> Path:
    """Return the one file among ``STEM.nii.gz`` and ``STEM.nii`` in some folders.

    A folder with this name that holds one NIfTI file counts as that file: some archives unpack this way.

    Raises
    ------
    DataError
        If there is no such file (the message says that `what` is missing), something else is in its place, or there are
        two files.
    """
    paths = [folder / f"{stem}{extension}" for folder in folders for stem in stems for extension in EXTENSIONS]
    files, refusals = [], []
    for path in map(_unwrapped, filter(_is_there, paths)):
        try:
            check_is_file(path)
        except DataError as refusal:
            refusals.append(refusal)
        else:
            files.append(path)
    if len(files) > 1:
        other = files[1].name if files[1].parent == files[0].parent else files[1]
        raise DataError(f"{files[0]}: {what} is also in {other}: keep one")
    if files:
        return files[0]
    if refusals:
        raise refusals[0]
    raise DataError(f"{folders[0] / stems[0]}.nii.gz: {what} is missing")


def _unwrapped(path: Path) -> Path:
    """Return the one NIfTI file in a folder that has a file's name; return any other path unchanged."""
    if path.is_dir():
        inner = [entry for entry in entries_of(path) if stem_of(entry.name) and not entry.name.startswith(SHADOWS)]
        if len(inner) == 1:
            return inner[0]
    return path


def _is_there(path: Path) -> bool:
    """Return whether anything has this name, including a broken link."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unreadable(path, error) from None
    return True

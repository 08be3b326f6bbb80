"""A phantom hospital as a site of a federation: how many patients it has, and who of them is held out."""

from dataclasses import replace

from fedserdiff.data.phantom.generate import case_names
from fedserdiff.data.phantom.hospitals import phantom_hospital
from fedserdiff.data.site_cases import patient_of
from fedserdiff.data.split import split_patients
from fedserdiff.settings.experiment import Settings, Site


def phantom_site(index: int, config: Settings) -> tuple[Site, dict[str, str]]:
    """Return the phantom hospital that arrives at position `index`, and the patient of each of its cases by case name.

    Its patients are split as those of any site. If fewer than `data.phantom_test_patients` are held out for testing,
    further patients join for testing alone. The site then names its held-out cases, and its training patients are
    those that it has without them.

    Parameters
    ----------
    index : int
        Position in the order of arrival, from 0.
    config : Settings
        Settings with the stream, the numbers of patients and the shares held out.

    Returns
    -------
    site : Site
        The hospital, with an empty path.
    patients : dict of str to str

    Raises
    ------
    DataError
        As in `split_patients`.
    """
    data = config.data
    hospital = phantom_hospital(data.phantom_stream, index)
    site = Site(f"site-{index + 1}", hospital.release, "")

    def patients(count: int) -> dict[str, str]:
        return {case: patient_of(site, case) for _, _, case in case_names(hospital.release, index, count)}

    count = hospital.patients(data.phantom_patients)
    own = patients(count)
    split = split_patients(site, own, config)
    further = data.phantom_test_patients - len(split.test)
    if further <= 0:
        return site, own
    everyone = patients(count + further)
    test = tuple(case for case, patient in everyone.items() if case not in own or patient in split.test)
    validation = tuple(case for case, patient in own.items() if patient in split.validation)
    return replace(site, test_cases=test, validation_cases=validation), everyone

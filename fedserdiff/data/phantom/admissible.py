"""Which protocols a radiologist accepts, by the signals of their tissues: no image is needed."""

from fedserdiff.data.phantom.scanner import Scanner

_VISIBLY = 1.05
"""How many times brighter counts as brighter; our choice, above the noise of a region's mean."""

# modality, the tissue that is brighter, the one that is darker
_ORDER = (
    ("t1", "wm", "gm"),
    ("t1", "gm", "csf"),
    ("t1ce", "rim", "wm"),  # with the next rule what BraTS calls enhancing tumour: Baid et al., arXiv 2107.02314
    ("t2", "csf", "wm"),
    ("t2", "csf", "gm"),
    ("t2", "oedema", "wm"),
    ("flair", "wm", "csf"),  # suppressed
    ("flair", "gm", "csf"),
    ("flair", "oedema", "wm"),
)


def objections(scanner: Scanner, uptake: float = 1.0) -> tuple[str, ...]:
    """Return what a radiologist objects to in a protocol, a line each; nothing where it is admissible.

    Parameters
    ----------
    scanner : Scanner
    uptake : float
        Of the weakest rim that the hospital's patients have, see `Lesion`.
    """
    signals = {
        modality: {tissue: abs(signal) for tissue, signal in tissues.items()}
        for modality, tissues in scanner.signals(uptake).items()
    }
    found = [
        f"{modality}: {bright} is not brighter than {dark}"
        for modality, bright, dark in _ORDER
        if signals[modality][bright] < _VISIBLY * signals[modality][dark]
    ]
    if signals["t1ce"]["rim"] < _VISIBLY * signals["t1"]["rim"]:
        found.append("t1ce: rim is not brighter than before contrast")
    return tuple(found)

"""Checks of which protocols a radiologist would accept, from the tissues' signals alone, without an image."""

from fedserdiff.data.phantom.scanner import Scanner

_VISIBLY = 1.05
"""Least signal ratio that counts as brighter; our choice, above the noise of a region's mean."""

# modality, brighter tissue, darker tissue
_ORDER = (
    ("t1", "wm", "gm"),
    ("t1", "gm", "csf"),
    ("t1ce", "rim", "wm"),  # with the contrast check, BraTS's enhancing tumour: Baid et al., arXiv 2107.02314
    ("t2", "csf", "wm"),
    ("t2", "csf", "gm"),
    ("t2", "oedema", "wm"),
    ("flair", "wm", "csf"),  # suppressed
    ("flair", "gm", "csf"),
    ("flair", "oedema", "wm"),
)


def objections(scanner: Scanner, uptake: float = 1.0) -> tuple[str, ...]:
    """Return a radiologist's objections to a protocol, one line each; empty if the protocol is admissible.

    Parameters
    ----------
    scanner : Scanner
    uptake : float
        Uptake of the weakest rim among the hospital's patients, see `Lesion`.
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

"""Membership inference from shared means: does a patient pull them to its own side?"""

import numpy as np
from numpy.typing import NDArray

_RIDGE = 0.05
"""Share of the mean variance added to a covariance, which is degenerate for few patients (our choice)."""

Floats = NDArray[np.float64]


def inner_products(
    patients: Floats, members: NDArray[np.bool_], shared: Floats, rng: np.random.Generator
) -> list[Floats]:
    """Return, for each patient, how far the shared means lie towards it from the population's means.

    This is the attack of Dwork, Smith, Steinke, Ullman and Vadhan (Robust traceability from trace amounts, FOCS 2015).
    With a patient's values x, the population's mean μ and the shared mean m, the score is (x − μ)ᵀ Σ⁻¹ (m − μ), summed
    over the patient's classes. The population is all other non-members, so that a patient is never compared with
    itself. For a member, it also lacks one random patient, so that all populations have the same size.

    Parameters
    ----------
    patients : array of float64, shape (P, K, M)
        Means of K classes in M modalities; NaN for classes that a patient does not have.
    members : array of bool, shape (P,)
        Patients whose values were averaged; at least two patients must be non-members.
    shared : array of float64, shape (K, M)
        Shared means; a class that is 0 in all modalities is not shared.
    rng : numpy Generator
        Generator that picks the patient left out of a member's population.

    Returns
    -------
    list of array, each of shape (1,)
        Score of each patient; higher scores suggest membership. 0 if nothing is shared.
    """
    outside = np.flatnonzero(~members)
    there = shared.any(1)
    scores = []
    for number, own in enumerate(patients):
        left_out = rng.choice(outside) if members[number] else number
        population = patients[outside[outside != left_out]]
        score = 0.0
        for own_class, others, mean in zip(own[there], population.swapaxes(0, 1)[there], shared[there], strict=True):
            known = others[~np.isnan(others).any(1)]
            if len(known) < 2 or np.isnan(own_class).any():
                continue
            centre = known.mean(0)
            covariance = np.cov(known.T)
            covariance += (_RIDGE * np.trace(covariance) / len(covariance) + 1e-9) * np.eye(len(covariance))
            score += float((own_class - centre) @ np.linalg.solve(covariance, mean - centre))
        scores.append(np.array([score]))
    return scores

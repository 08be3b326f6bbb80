"""Membership from means that are shared: does a patient pull them to its own side?"""

import numpy as np
from numpy.typing import NDArray

_RIDGE = 0.05
"""Of the mean variance, added to a covariance: of few patients it is degenerate (our choice)."""

Floats = NDArray[np.float64]


def inner_products(
    patients: Floats, members: NDArray[np.bool_], shared: Floats, rng: np.random.Generator
) -> list[Floats]:
    """Return for each patient how far shared means lie to its own side of the population's.

    The attack of Dwork, Smith, Steinke, Ullman and Vadhan (Robust traceability from trace amounts, FOCS 2015): with x
    what a patient has, μ the population's mean and m the shared one, the score is (x − μ)ᵀ Σ⁻¹ (m − μ), summed over
    classes that the patient has. The population is everyone else who is no member, so that a patient is never held
    against itself; a member's lacks one drawn patient, too, so that all of them are equally large.

    Parameters
    ----------
    patients : array of float64, shape (P, K, M)
        Means of K classes in M modalities; NaN of classes that a patient does not have.
    members : array of bool, shape (P,)
        Who was averaged; at least two patients were not.
    shared : array of float64, shape (K, M)
        The means; a class that is 0 in all modalities is not shared.
    rng : numpy Generator
        For which patient a member's population lacks.

    Returns
    -------
    list of array, each of shape (1,)
        By patient; the higher, the more it seems to be a member. 0 where nothing is shared.
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

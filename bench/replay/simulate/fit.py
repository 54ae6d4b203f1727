"""Least squares without negative coefficients."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def nonnegative(rows: Array, targets: Array, sweeps: int = 20_000) -> Array:
    """The x ≥ 0 that makes rows · x closest to targets. What takes longer varies more, and is weighed so that the mean
    is met and no single target decides.

    Cyclic coordinate descent on the normal equations: the coefficients of service times are few.
    """
    weights = 1 / np.sqrt(np.maximum(np.abs(targets), 1e-3))
    scale = np.maximum(np.abs(rows * weights[:, None]).max(axis=0), 1e-30)
    scaled = rows * weights[:, None] / scale
    gram, wanted = scaled.T @ scaled, scaled.T @ (targets * weights)
    found = np.zeros(rows.shape[1])
    for _ in range(sweeps):
        before = found.copy()
        for each in np.flatnonzero(np.diag(gram) > 0):
            rest = wanted[each] - gram[each] @ found + gram[each, each] * found[each]
            found[each] = max(rest / gram[each, each], 0.0)
        if np.abs(found - before).max() <= 1e-12 * max(1.0, np.abs(found).max()):
            break
    unscaled: Array = found / scale
    return unscaled

"""The Fréchet distance of two sets of features, as of two normal distributions.

Of a language model's features of texts it is the distance of Semeniuta et al. (2018), of those of
an image classifier the FID (Heusel et al. 2017). The square root of the matrices is exact.
"""

from typing import Any

import numpy as np

from jaxgen.errors import UserError


def frechet_distance(first: Any, second: Any) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of the means and covariances of features.

    Covariances divide by N - 1. The distance falls with the number of texts that estimate it, so
    only those of as many texts compare.

    Args:
        first: Float[N, D], a row for each of at least 2 texts.
        second: Float[M, D].

    Returns:
        0 or more, in squared units of the features.

    Raises:
        UserError: there are less than two rows, the sizes differ, or a number is not finite.
    """
    rows = [np.asarray(features, np.float64) for features in (first, second)]
    for features in rows:
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != rows[0].shape[1]:
            raise UserError(
                "the Fréchet distance takes the features of two texts or more, [N, D] and [M, D], "
                f"got {list(rows[0].shape)} and {list(rows[1].shape)}"
            )
        if not np.isfinite(features).all():
            raise UserError(
                "the Fréchet distance takes finite features, got NaN or inf; look at the model "
                "and the texts that they come from"
            )
    means = [features.mean(axis=0) for features in rows]
    deviations = [x - mean for x, mean in zip(rows, means, strict=True)]
    covariances = [x.T @ x / (len(x) - 1) for x in deviations]
    # tr((C1 C2)^(1/2)) by symmetric matrices alone: C1 C2 is similar to C1^(1/2) C2 C1^(1/2).
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariances[1] @ root)
    shared = np.sqrt(np.maximum(product, 0)).sum()
    spread = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * shared
    return max(float(np.sum((means[0] - means[1]) ** 2) + spread), 0.0)

"""Parts drawn at random from labelled rows, each class in every part by its share."""

from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from jaxgen.types import Int


def stratified(
    classes: Sequence[Hashable], shares: Mapping[str, float], seed: int
) -> tuple[Int[np.ndarray, "_"], dict[str, Int[np.ndarray, "_"]]]:
    """Draw disjoint parts of some rows; a class has the same share of each part as of the whole.

    A part has `round(share * rows)` rows, divided among the classes by the largest remainder. Each
    class keeps at least one row that no part has, so a part may be smaller where classes are tiny.
    The same arguments give the same parts on every machine.

    Args:
        classes: the class of each row.
        shares: the share of all rows that each part has; together less than 1.
        seed: of the draw.

    Returns:
        The rows that are left and the rows of each part, all in ascending order.
    """
    rows: dict[Hashable, list[int]] = {}
    for row, name in enumerate(classes):
        rows.setdefault(name, []).append(row)
    members = list(rows.values())
    rng = np.random.default_rng(seed % 2**32)
    left = [rng.permutation(np.asarray(row, np.int64)) for row in members]
    sizes = [len(row) for row in members]
    parts = {}
    for part, share in shares.items():
        counts = apportion(sizes, share, [len(row) - 1 for row in left])
        drawn = [row[:count] for row, count in zip(left, counts, strict=True)]
        left = [row[count:] for row, count in zip(left, counts, strict=True)]
        parts[part] = _sorted(drawn)
    return _sorted(left), parts


def apportion(sizes: Sequence[int], share: float, most: Sequence[int]) -> list[int]:
    """Divide a share of all rows among classes by the largest remainder.

    Args:
        sizes: rows of each class.
        share: what is taken of their sum, rounded.
        most: rows that each class can give.

    Returns:
        Rows of each class. Where remainders are equal, the class that comes first has the row.
    """
    exact = Fraction(str(share))  # 0.1 is a tenth here, and not the nearest binary number
    quotas = [size * exact for size in sizes]
    counts = [min(int(quota), bound) for quota, bound in zip(quotas, most, strict=True)]
    missing = round(sum(sizes) * exact) - sum(counts)
    order = sorted(range(len(sizes)), key=lambda index: int(quotas[index]) - quotas[index])
    able = [i for i in order if counts[i] < most[i] and counts[i] < quotas[i]]
    for index in able[: max(missing, 0)]:
        counts[index] += 1
    return counts


def _sorted(groups: Sequence[Int[np.ndarray, "_"]]) -> Int[np.ndarray, "_"]:
    return np.sort(np.concatenate([*groups, np.empty(0, np.int64)]))

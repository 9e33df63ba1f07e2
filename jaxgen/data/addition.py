"""Sums of two numbers as pairs of texts: `123+45` and `168`."""

import numpy as np

from jaxgen.errors import UserError


def additions(count: int, digits: int, seed: int) -> list[tuple[str, str]]:
    """Draw sums, none of them twice, with the numbers the other way round neither.

    Each number has 1 to `digits` digits, as likely one as the other, and is even among the numbers
    below that power of ten: the distribution of the Keras example `addition_rnn`, so that short
    numbers come often enough to be learned. The arguments alone say what is drawn.

    Args:
        count: of the sums.
        digits: most digits of a number, at most 9.
        seed: of the draw.

    Raises:
        UserError: more than half of all sums are asked for, so that drawing would find few new.
    """
    numbers = 10**digits
    most = numbers * (numbers + 1) // 4
    if count > most:
        raise UserError(
            f"`data.examples` must be at most {most}, half of all sums of numbers of {digits} "
            f"digits, got {count}; ask for fewer, or raise `data.digits`"
        )
    random = np.random.Philox(np.random.SeedSequence((seed % 2**32, digits)))
    drawn: dict[tuple[int, int], tuple[int, int]] = {}
    while len(drawn) < count:
        bits = random.random_raw(4 * count).reshape(2, count, 2)
        powers = 10 ** (bits[0] % np.uint64(digits) + np.uint64(1))
        for a, b in (bits[1] % powers).tolist():
            drawn.setdefault((min(a, b), max(a, b)), (a, b))
    return [(f"{a}+{b}", str(a + b)) for a, b in list(drawn.values())[:count]]

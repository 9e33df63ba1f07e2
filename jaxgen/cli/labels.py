"""Labels typed after `--label`, as a model takes them."""

import re
from collections.abc import Sequence


def typed_labels(typed: Sequence[str], names: Sequence[str]) -> list[str | int]:
    """Each label, `all` as every name, and a number as an id.

    Names go first, so that a label that is called "all" or "3" can be asked for.
    """
    labels: list[str | int] = []
    for text in typed:
        if text == "all" and names and text not in names:
            labels += names
        elif re.fullmatch(r"-?\d+", text) and text not in names:
            labels.append(int(text))
        else:
            labels.append(text)
    return labels

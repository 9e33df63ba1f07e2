"""The output layer of a language model as its settings describe it: full, or by clusters."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgen.config.language_model import RecurrentConfig
from jaxgen.ops.clusters import Clusters, make_clusters, tail_sizes
from jaxgen.tasks.task import Files
from jaxgen.types import Int

CLUSTERS = "clusters.json"
"""The file of a model that says which tokens stand in which cluster."""


def fit_output(
    config: RecurrentConfig, count_tokens: Callable[[], Int[np.ndarray, " V"]]
) -> dict[str, str]:
    """The files of an output layer, fitted to the training text.

    Args:
        config: settings of the model.
        count_tokens: how often each token occurs in the training text; called where it matters.

    Raises:
        UserError: cut-offs do not rise or exceed the vocabulary, or tails would have no numbers.
    """
    if config.output == "full":
        return {}
    size = config.embedding_size if config.tied else config.hidden_size
    tails = 2 if size >= config.tail_divisor**2 else 1
    clusters = make_clusters(count_tokens(), config.cutoffs, tails=tails)
    tail_sizes(size, config.tail_divisor, len(clusters.cutoffs))
    return {CLUSTERS: clusters.to_text()}


def module_settings(config: RecurrentConfig, files: Files) -> dict[str, Any]:
    """Attributes of a `LanguageModel` by name, all but those of its vocabulary and labels."""
    settings = config.model_dump(exclude={"dtype", "output", "cutoffs"})
    return {**settings, "dtype": jnp.dtype(config.dtype), "clusters": _clusters_of(files)}


def output_facts(files: Files) -> dict[str, str]:
    """What `info` says of an output layer that is not full."""
    clusters = _clusters_of(files)
    if clusters is None:
        return {}
    return {"output": f"adaptive, cut-offs {' '.join(map(str, clusters.cutoffs))}"}


def _clusters_of(files: Files) -> Clusters | None:
    text = files.get(CLUSTERS)
    return None if text is None else _parsed(text)


@lru_cache(maxsize=4)
def _parsed(text: str) -> Clusters:
    return Clusters.from_text(text)

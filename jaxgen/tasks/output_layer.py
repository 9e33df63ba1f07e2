"""The output layer of a model as its settings describe it: full, or by clusters."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgen.config.language_model import RecurrentConfig
from jaxgen.config.seq2seq import Seq2SeqConfig
from jaxgen.errors import UserError
from jaxgen.ops.clusters import Clusters, make_clusters, tail_sizes
from jaxgen.tasks.task import Files
from jaxgen.types import Int

ModelConfig = RecurrentConfig | Seq2SeqConfig
CLUSTERS = "clusters.json"
"""The file of a model that says which tokens stand in which cluster."""


def fit_output(
    config: ModelConfig,
    count_tokens: Callable[[], Int[np.ndarray, " V"]],
    pretrained: Files | None = None,
) -> dict[str, str]:
    """The files of an output layer, fitted to the training text.

    Args:
        config: settings of the model.
        count_tokens: how often each token occurs in the training text; called where it matters.
        pretrained: the files of a model whose output layer to begin with: of an adaptive one its
            clusters are kept.

    Raises:
        UserError: cut-offs do not rise or exceed the vocabulary, are not those of the pretrained
            model, or tails would have no numbers.
    """
    if config.output == "full":
        return {}
    size = config.output_size
    tails = 2 if size >= config.tail_divisor**2 else 1
    clusters = _clusters_of(pretrained or {})
    if clusters is None:
        clusters = make_clusters(count_tokens(), config.cutoffs, tails=tails)
    elif config.cutoffs and config.cutoffs != clusters.cutoffs:
        raise UserError(
            "`model.cutoffs` must be those of the pretrained model, "
            f"{_shown(clusters)}, got {' '.join(map(str, config.cutoffs))}; leave them out"
        )
    tail_sizes(size, config.tail_divisor, len(clusters.cutoffs))
    return {CLUSTERS: clusters.to_text()}


def module_settings(config: ModelConfig, files: Files) -> dict[str, Any]:
    """Attributes of a model's module by name, all but those of its vocabularies and labels."""
    left_out = {"dtype", "output", "cutoffs", "pretrained", "pretrained_side"}
    settings = config.model_dump(exclude=left_out)
    return {**settings, "dtype": jnp.dtype(config.dtype), "clusters": _clusters_of(files)}


def output_facts(files: Files) -> dict[str, str]:
    """What `info` says of an output layer that is not full."""
    clusters = _clusters_of(files)
    if clusters is None:
        return {}
    return {"output": f"adaptive, cut-offs {_shown(clusters)}"}


def _shown(clusters: Clusters) -> str:
    return " ".join(map(str, clusters.cutoffs))


def _clusters_of(files: Files) -> Clusters | None:
    text = files.get(CLUSTERS)
    return None if text is None else _parsed(text)


@lru_cache(maxsize=4)
def _parsed(text: str) -> Clusters:
    return Clusters.from_text(text)

"""Settings of an output layer that foretells tokens."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jaxgen.config.base import Config, Positive


class OutputConfig(Config):
    """What models that foretell tokens have in common."""

    output: Literal["full", "adaptive"] = "full"
    """Output layer: a full softmax, or one by clusters of frequent and of rare tokens, with which
    large vocabularies train and write faster."""
    cutoffs: tuple[Positive, ...] = ()
    """Ends of the clusters of an adaptive output but the last, counted from the most frequent token
    (default: chosen from the frequencies of the training text)."""
    tail_divisor: Annotated[float, Field(ge=1)] = 4.0
    """Cluster i of an adaptive output reads the layer below over this to the power of i; at 1, a
    tied embedding is shared with all clusters, else with the first tokens alone."""

    @model_validator(mode="after")
    def _cutoffs_rise(self) -> Self:
        if self.cutoffs and self.output != "adaptive":
            raise ValueError(
                "`model.cutoffs` divide an adaptive output, and `model.output` is "
                f"{self.output}; set it to adaptive, or leave the cut-offs out"
            )
        if any(end <= begin for begin, end in pairwise(self.cutoffs)):
            raise ValueError(
                f"`model.cutoffs` must rise, got {' '.join(map(str, self.cutoffs))}; give the ends "
                "of clusters, such as 2000 10000, or none to have them chosen"
            )
        return self

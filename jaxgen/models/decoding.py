"""One step of a language model with as few operations as possible, for loops that generate."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from jaxgen.models.language_model import LanguageModel, LanguageModelCarry, added_rows, modulated
from jaxgen.models.output_step import HeadFirstStep, Output, next_logits, prepare_output
from jaxgen.models.stack_step import Cells, prepare_stack, stack_step
from jaxgen.ops.lookup import lookup
from jaxgen.types import Array, Float, Int, PyTree


class DecodingParams(NamedTuple):
    """Parameters of a language model, rearranged once so that each step is fewer operations."""

    table: Float[Array, "V D"]
    """A row a token: the first layer's pre-activations where folded, else the embedding."""
    cells: Cells
    output: Output
    label_table: Any
    """Float[N, D]: what a label does at each step, see `LanguageModel.condition`; or None."""


@dataclass(frozen=True)
class LanguageModelStep:
    """`step_fn(params, carry, tokens[B]) -> (carry, logits[B, V])` of a language model.

    It takes the model's own parameters. `jaxgen.generate` first passes them through `prepare`,
    once, outside its loop; so may any other loop.
    """

    model: LanguageModel

    def __call__(
        self,
        params: PyTree | DecodingParams,
        carry: LanguageModelCarry,
        tokens: Int[Array, "B"],
    ) -> tuple[LanguageModelCarry, Float[Array, "B V"]]:
        """Read one token a row; returns the new carry and float32 logits of the next token."""
        return self.with_hidden(params, carry, tokens)[:2]

    def with_hidden(
        self,
        params: PyTree | DecodingParams,
        carry: LanguageModelCarry,
        tokens: Int[Array, "B"],
    ) -> tuple[LanguageModelCarry, Float[Array, "B V"], Float[Array, "B H"]]:
        """The same, and the output of the last layer, for `jaxgen.generation.cache`."""
        if self.model.cell != "lstm":
            variables: Any = {"params": params}
            apply: Any = partial(self.model.apply, variables)
            after, hidden = apply(tokens[None], carry, method="hidden_states")
            return after, apply(hidden[0], method="logits"), hidden[0]
        if not isinstance(params, DecodingParams):
            params = self.prepare(params)
        carry, hidden = self.hidden(params, carry, tokens)
        return carry, next_logits(params.output, self.model.clusters, hidden), hidden

    def hidden(
        self, params: DecodingParams, carry: LanguageModelCarry, tokens: Int[Array, "B"]
    ) -> tuple[LanguageModelCarry, Float[Array, "B H"]]:
        """The new carry and what the output layer reads."""
        condition = self.model.condition if self.model.num_labels else None
        rows = params.label_table[carry.labels] if condition == "input" else None
        layers, x = stack_step(
            params.cells,
            carry.layers,
            lookup(params.table, tokens),
            residual=self.model.residual,
            added=added_rows(rows, carry.gate_rows),
        )
        if condition == "film":
            x = modulated(x, params.label_table[carry.labels])
        return carry._replace(layers=layers), x

    @property
    def head_first(self) -> HeadFirstStep | None:
        """The same step with its tails left for later; None where it has no tails."""
        clusters = self.model.clusters
        if clusters is None or self.model.cell != "lstm":
            return None
        return HeadFirstStep(self, clusters)

    def prepare(self, params: PyTree) -> PyTree | DecodingParams:
        """Fold the embedding into the first layer and stack each other layer's two kernels."""
        model, dtype = self.model, self.model.dtype
        if model.cell != "lstm":
            return params
        table, cells = prepare_stack(params["lstm"], params.get("embedding"), dtype)
        return DecodingParams(
            table,
            cells,
            prepare_output(model, params),
            params.get("label_gates", params.get("label_film")),
        )


@dataclass(frozen=True)
class LanguageModelInitialCarry:
    """`initial_carry(params, batch_size, condition)` of a language model."""

    model: LanguageModel

    def __call__(
        self, params: PyTree, batch_size: int, condition: Int[Array, "B"] | None = None
    ) -> LanguageModelCarry:
        """The carry before the first token; the condition is a label a row, or None."""
        model = self.model
        if not model.num_labels or model.condition != "carry":
            return model.initial_carry(batch_size, condition)
        variables: Any = {"params": params}
        carry: Any = model.apply(variables, batch_size, condition, method="first_carry")
        return carry


def initial_carry_of(model: LanguageModel) -> LanguageModelInitialCarry:
    """The initial carry of a model, as generation asks for it."""
    return LanguageModelInitialCarry(model)


def step_fn_of(model: LanguageModel) -> LanguageModelStep:
    """The step function of a model, as generation takes it."""
    return LanguageModelStep(model)

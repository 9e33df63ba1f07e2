"""Flax modules of the recurrence: one cell, and stacks of layers in one or both directions."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxgen.nn.dropout import drop
from jaxgen.nn.initializers import gate_bias, input_kernel_init, recurrent_kernel_init
from jaxgen.nn.inputs import TokenInputs, project, real_steps
from jaxgen.ops.backends import RecurrenceSpec, choose_backend
from jaxgen.ops.cell import LSTMWeights
from jaxgen.ops.layernorm_lstm import layer_norm, layernorm_lstm
from jaxgen.ops.lstm import LSTMCarry, lstm, zero_carry
from jaxgen.types import Array, Bool, Float, Int


class LSTMParameters(nn.Module):
    """The parameters of a plain layer, with DropConnect on its recurrent kernel."""

    hidden_size: int
    forget_bias: float = 1.0
    weight_drop: float = 0.0

    @nn.compact
    def __call__(self, input_size: int, deterministic: bool) -> LSTMWeights:
        """Declare them for inputs of a size; all float32."""
        width = 4 * self.hidden_size
        input_kernel = self.param("input_kernel", input_kernel_init, (input_size, width))
        kernel = self.param("recurrent_kernel", recurrent_kernel_init, (self.hidden_size, width))
        bias = self.param("bias", gate_bias(self.forget_bias), (width,))
        if self.weight_drop and not deterministic:
            kernel = drop(kernel, self.make_rng("dropout"), self.weight_drop)
        return LSTMWeights(input_kernel, kernel, bias)


class LSTMLayer(nn.Module):
    """One LSTM layer in one direction, time-major.

    Parameters: `input_kernel` [D, 4H], `recurrent_kernel` [H, 4H], `bias` [4H], gates in the order
    i, f, g, o; a layer-normalised layer adds `input_scale`, `recurrent_scale` [4H], `cell_scale`
    and `cell_bias` [H].
    """

    hidden_size: int
    cell: str = "lstm"
    """`lstm` or `layernorm_lstm`."""
    forget_bias: float = 1.0
    weight_drop: float = 0.0
    """DropConnect rate on the recurrent kernel, one mask a sequence."""
    reverse: bool = False
    dtype: Any = jnp.float32
    """Compute type; parameters and the cell state are float32."""
    backend: str = "auto"
    """`auto`, `scan` or `pallas`, see `jaxgen.ops.backends`; for `cudnn` use an `LSTM`."""

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "T B D"] | TokenInputs,
        carry: LSTMCarry,
        *,
        mask: Bool[Array, "T B"] | None = None,
        resets: Bool[Array, "T B"] | None = None,
        gate_bias_rows: Float[Array, "B G"] | None = None,
        deterministic: bool = True,
    ) -> tuple[LSTMCarry, Float[Array, "T B H"]]:
        """Run the layer; `gate_bias_rows` is added to the pre-activations of every step of a row.

        Returns:
            The carry after the last step and the hidden states [T, B, H] in the compute type.
        """
        size = inputs.size if isinstance(inputs, TokenInputs) else inputs.shape[-1]
        steps = inputs.tokens if isinstance(inputs, TokenInputs) else inputs
        width = 4 * self.hidden_size
        parameters = LSTMParameters(self.hidden_size, self.forget_bias, self.weight_drop)
        nn.share_scope(self, parameters)
        input_kernel, kernel, bias = parameters(size, deterministic)
        kernel = kernel.astype(self.dtype)
        options: dict[str, Any] = {"mask": mask, "resets": resets, "reverse": self.reverse}
        if self.cell == "lstm":
            pre_activations = project(inputs, input_kernel, bias, self.dtype)
            pre_activations = _add_rows(pre_activations, gate_bias_rows)
            return lstm(pre_activations, kernel, carry, backend=self.backend, **options)
        T, B = steps.shape[:2]
        choose_backend(self.backend, RecurrenceSpec(T, B, self.hidden_size, cell=self.cell))
        ones = nn.initializers.ones
        input_scale = self.param("input_scale", ones, (width,))
        recurrent_scale = self.param("recurrent_scale", ones, (width,))
        cell_scale = self.param("cell_scale", ones, (self.hidden_size,))
        cell_bias = self.param("cell_bias", nn.initializers.zeros, (self.hidden_size,))
        projected = project(inputs, input_kernel, jnp.zeros(()), self.dtype)
        pre_activations = (layer_norm(projected, input_scale) + bias).astype(self.dtype)
        pre_activations = _add_rows(pre_activations, gate_bias_rows)
        scales = (recurrent_scale, cell_scale, cell_bias)
        return layernorm_lstm(pre_activations, kernel, *scales, carry, **options)


def _add_rows(pre_activations: Array, rows: Array | None) -> Array:
    if rows is None:
        return pre_activations
    return pre_activations + rows.astype(pre_activations.dtype)


def _before_next(resets: Array | None) -> Array | None:
    """Where a walk from the end resets: a document that begins at t+1 ends, for it, before t."""
    return None if resets is None else jnp.roll(resets, -1, axis=0).at[-1].set(False)


class LSTMCell(nn.RNNCellBase):
    """One step of a layer of an `LSTM`, with the same parameters.

    A cell as Flax's own are, `(carry, inputs) -> (carry, hidden)`: it runs in a loop of one's own
    and under `flax.linen.RNN`. The parameters of layer n of an `LSTM` are `params["layer_n"]`.
    """

    hidden_size: int
    cell: str = "lstm"
    """`lstm` or `layernorm_lstm`."""
    forget_bias: float = 1.0
    """What the bias of the forget gate starts at."""
    dtype: Any = jnp.float32
    """Compute type; parameters and the cell state are float32."""

    @nn.compact
    def __call__(
        self, carry: LSTMCarry, inputs: Float[Array, "*B D"]
    ) -> tuple[LSTMCarry, Float[Array, "*B H"]]:
        """Take one step.

        Args:
            carry: from `initialize_carry` or an earlier step, leaves [*B, H].
            inputs: [*B, D]; as many leading axes as there are, none too.

        Returns:
            The new carry, and its hidden state [*B, H] in the compute type.
        """
        layer = LSTMLayer(
            self.hidden_size, self.cell, self.forget_bias, dtype=self.dtype, backend="scan"
        )
        nn.share_scope(self, layer)
        rows = [x.reshape(-1, x.shape[-1]) for x in (inputs, *carry)]
        end, hidden = layer(rows[0][None], LSTMCarry(*rows[1:]))
        shape = (*inputs.shape[:-1], self.hidden_size)
        return LSTMCarry(end.c.reshape(shape), end.h.reshape(shape)), hidden.reshape(shape)

    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> LSTMCarry:
        """The zero carry for inputs of shape [*B, D] (`rng` is not used: Flax's signature)."""
        carry = zero_carry(math.prod(input_shape[:-1]), self.hidden_size, self.dtype)
        shape = (*input_shape[:-1], self.hidden_size)
        return LSTMCarry(carry.c.reshape(shape), carry.h.reshape(shape))

    @property
    def num_feature_axes(self) -> int:
        """Trailing axes of the input that are features (Flax's `nn.RNN` asks)."""
        return 1


class LSTM(nn.Module):
    """A stack of LSTM layers: bidirectional, residual and with dropout where asked."""

    hidden_sizes: tuple[int, ...]
    """Units of each layer, and direction, from the first to the last."""
    bidirectional: bool = False
    residual: bool = False
    """Add a layer's input to its output from the second layer on, where the sizes agree."""
    dropout: float = 0.0
    """Dropout between layers (not after the last)."""
    variational: bool = True
    """One dropout mask a sequence rather than one a step."""
    weight_drop: float = 0.0
    cell: str = "lstm"
    forget_bias: float = 1.0
    time_major: bool = False
    """Inputs and outputs are [T, B, ...] instead of [B, T, ...]."""
    dtype: Any = jnp.float32
    backend: str = "auto"
    """`auto`, `scan`, `cudnn` or `pallas`, see `jaxgen.ops.backends`."""

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "B T D"] | TokenInputs,
        carry: tuple[LSTMCarry, ...] | None = None,
        *,
        mask: Bool[Array, "B T"] | None = None,
        resets: Bool[Array, "B T"] | None = None,
        lengths: Int[Array, "R"] | None = None,
        keep_ends: bool = False,
        gate_bias_rows: Float[Array, "R G"] | None = None,
        deterministic: bool = True,
    ) -> tuple[tuple[LSTMCarry, ...], Float[Array, "B T O"]]:
        """Run the stack.

        Args:
            inputs: [B, T, D] ([T, B, D] with `time_major`), or `TokenInputs` (time-major always).
            carry: one `LSTMCarry` a layer and direction, forward before backward, as
                `initial_carry` makes; None starts from zeros.
            mask: True = real step; a padded step leaves the carry alone and its output is zero.
            resets: True = a document begins here: the carry is zeroed first.
            lengths: instead of a mask, real steps of rows that are padded at their end, for callers
                that read the outputs of real steps alone: what the others hold, and the carries
                after the walk, is of no meaning. It costs the forward direction nothing.
            keep_ends: with `lengths`, the carries after the walk are those after each row's last
                real step (its first, in the backward direction).
            gate_bias_rows: [B, 4H] added to the first layer's pre-activations at every step (a
                condition).
            deterministic: no dropout; otherwise the module needs the `dropout` random stream.

        Returns:
            The carry after the last step (the first, in the backward direction), and the hidden
            states of the last layer, [B, T, H], or [B, T, 2H] where bidirectional.
        """
        if not isinstance(inputs, TokenInputs) and not self.time_major:
            inputs = inputs.swapaxes(0, 1)
        if not self.time_major:
            mask, resets = (None if x is None else x.T for x in (mask, resets))
        steps = inputs.tokens if isinstance(inputs, TokenInputs) else inputs
        carries = self.initial_carry(steps.shape[1]) if carry is None else carry
        spec = RecurrenceSpec(
            T=steps.shape[0],
            B=steps.shape[1],
            H=max(self.hidden_sizes),
            dtype=self.dtype,
            mask=mask is not None,
            resets=resets is not None,
            conditioned=gate_bias_rows is not None,
            cell=self.cell,
        )
        by_layer = self.backend in ("scan", "pallas")
        if by_layer or choose_backend(self.backend, spec).name != "cudnn":
            options: dict[str, Any] = {
                "mask": mask,
                "resets": resets,
                "lengths": lengths,
                "keep_ends": keep_ends,
                "deterministic": deterministic,
            }
            ends, hidden = self._by_layer(inputs, carries, gate_bias_rows, **options)
        else:
            ends, hidden = self._through_cudnn(inputs, carries, lengths, deterministic)
        return ends, hidden if self.time_major else hidden.swapaxes(0, 1)

    def _by_layer(
        self,
        inputs: Any,
        carries: tuple[LSTMCarry, ...],
        gate_bias_rows: Array | None,
        *,
        mask: Array | None,
        resets: Array | None,
        lengths: Array | None,
        keep_ends: bool,
        deterministic: bool,
    ) -> tuple[tuple[LSTMCarry, ...], Array]:
        """One run of `jaxgen.ops.lstm.lstm` a layer and direction."""
        ways = ("", "_reverse") if self.bidirectional else ("",)
        masks = [mask, mask]
        if lengths is not None:  # only a walk from the end meets the padding before the real steps
            steps = inputs.tokens if isinstance(inputs, TokenInputs) else inputs
            masks[1] = real_steps(len(steps), lengths)
            masks[0] = masks[1] if keep_ends else mask
        ends: list[LSTMCarry] = []
        hidden: Any = inputs
        if self.bidirectional and isinstance(inputs, TokenInputs) and not inputs.folds:
            hidden = inputs.rows()  # once for both: their gradient is then added up once too
        for index, size in enumerate(self.hidden_sizes):
            outputs: list[Array] = []
            for way, suffix in enumerate(ways):
                layer = LSTMLayer(
                    size,
                    self.cell,
                    self.forget_bias,
                    self.weight_drop,
                    reverse=bool(way),
                    dtype=self.dtype,
                    backend=self.backend,
                    name=f"layer_{index}{suffix}",
                )
                end, output = layer(
                    hidden,
                    carries[index * len(ways) + way],
                    mask=masks[way],
                    resets=_before_next(resets) if way else resets,
                    gate_bias_rows=gate_bias_rows if index == 0 else None,
                    deterministic=deterministic,
                )
                ends.append(end)
                outputs.append(output)
            output = jnp.concatenate(outputs, -1) if self.bidirectional else outputs[0]
            hidden = self._after_layer(index, hidden, output, deterministic)
        return tuple(ends), hidden

    def _after_layer(self, index: int, inputs: Any, output: Array, deterministic: bool) -> Array:
        """A layer's output with the residual connection and the dropout that follow it."""
        if self.residual and index > 0 and inputs.shape == output.shape:
            output = output + inputs
        if self._drops(deterministic) and index + 1 < len(self.hidden_sizes):
            axes = (0,) if self.variational else ()
            output = drop(output, self.make_rng("dropout"), self.dropout, axes)
        return output

    def _drops(self, deterministic: bool) -> bool:
        return self.dropout > 0 and not deterministic

    def _through_cudnn(
        self,
        inputs: Any,
        carries: tuple[LSTMCarry, ...],
        lengths: Array | None,
        deterministic: bool,
    ) -> tuple[tuple[LSTMCarry, ...], Array]:
        """The stack in one cuDNN call where nothing stands between its layers, else one each."""
        from jaxgen.ops.cudnn import cudnn_lstm

        ways = ("", "_reverse") if self.bidirectional else ("",)
        hidden = inputs.rows() if isinstance(inputs, TokenInputs) else inputs
        layers = range(len(self.hidden_sizes))
        broken = self.residual or self._drops(deterministic) or len(set(self.hidden_sizes)) > 1
        ends: list[LSTMCarry] = []
        for call in [(index,) for index in layers] if broken else [tuple(layers)]:
            weights, size = [], hidden.shape[-1]
            for index in call:
                units = self.hidden_sizes[index]
                for way in ways:
                    parameters = LSTMParameters(
                        units, self.forget_bias, self.weight_drop, name=f"layer_{index}{way}"
                    )
                    weights.append(parameters(size, deterministic))
                size = len(ways) * units
            start = carries[len(ends) : len(ends) + len(weights)]
            new, output = cudnn_lstm(
                hidden, weights, start, lengths=lengths, bidirectional=self.bidirectional
            )
            ends += new
            hidden = self._after_layer(call[-1], hidden, output, deterministic)
        return tuple(ends), hidden

    def initial_carry(self, batch_size: int) -> tuple[LSTMCarry, ...]:
        """Zero carries, one a layer and direction."""
        ways = 2 if self.bidirectional else 1
        sizes = [size for size in self.hidden_sizes for _ in range(ways)]
        return tuple(zero_carry(batch_size, size, self.dtype) for size in sizes)

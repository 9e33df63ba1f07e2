"""Parameters of an LSTM stack to and from the state dict of `torch.nn.LSTM`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.errors import UserError

# jaxgen and PyTorch both order the gates i, f, g, o; PyTorch stores matrices transposed and
# splits the bias in two.


def to_torch(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Convert the parameters of `jaxgen.nn.LSTM` for `torch.nn.LSTM.load_state_dict`.

    Args:
        params: `{"layer_0": {...}, "layer_0_reverse": {...}, ...}` of a plain LSTM stack.

    Returns:
        `weight_ih_l0` [4H, D], `weight_hh_l0` [4H, H], `bias_ih_l0`, `bias_hh_l0` [4H] and so on,
        as NumPy arrays (wrap them with `torch.from_numpy`). The second bias is zero.

    Raises:
        UserError: the stack is layer-normalised, which PyTorch's LSTM cannot be.
    """
    state = {}
    for name, layer in params.items():
        if "input_scale" in layer:
            raise UserError(
                f"`{name}` is layer-normalised, and torch.nn.LSTM has no such layer; "
                "convert a stack whose `cell` is lstm"
            )
        suffix = name.removeprefix("layer_")
        bias = np.asarray(layer["bias"])
        state[f"weight_ih_l{suffix}"] = np.asarray(layer["input_kernel"]).T.copy()
        state[f"weight_hh_l{suffix}"] = np.asarray(layer["recurrent_kernel"]).T.copy()
        state[f"bias_ih_l{suffix}"] = bias.copy()
        state[f"bias_hh_l{suffix}"] = np.zeros_like(bias)
    return state


def from_torch(state_dict: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Convert a `torch.nn.LSTM` state dict (tensors on the CPU, or arrays) to LSTM parameters.

    Args:
        state_dict: as `torch.nn.LSTM.state_dict()` gives it, with or without biases.

    Returns:
        Parameters for `jaxgen.nn.LSTM` of the same sizes.

    Raises:
        UserError: a key is not one of a plain `torch.nn.LSTM` (projections are not supported).
    """
    params: dict[str, dict[str, np.ndarray]] = {}
    for name, value in state_dict.items():
        kind, _, suffix = name.partition("_l")
        known = kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        if not known or not suffix.removesuffix("_reverse").isdecimal():
            raise UserError(
                f"`{name}` is not a weight of a plain torch.nn.LSTM (such as weight_ih_l0); "
                "pass the state dict of the LSTM alone, made without proj_size; those of a "
                "torch.nn.LSTMCell are layer 0, so end their names in _l0"
            )
        array = np.asarray(value)
        layer = params.setdefault(f"layer_{suffix}", {})
        if kind.startswith("bias"):
            layer["bias"] = layer.get("bias", np.zeros_like(array)) + array
        else:
            side = "input" if kind == "weight_ih" else "recurrent"
            layer[f"{side}_kernel"] = array.T.copy()
    for layer in params.values():
        layer.setdefault("bias", np.zeros(layer["recurrent_kernel"].shape[1], np.float32))
    return params

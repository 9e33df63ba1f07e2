"""Flax Linen modules of the LSTM recurrence: `LSTM` (stacks of layers) and `LSTMCell` (one step)."""

from jaxgen.nn.lstm import LSTM, LSTMCell
from jaxgen.ops.lstm import LSTMCarry

__all__ = ["LSTM", "LSTMCarry", "LSTMCell"]

"""Flax Linen modules of the recurrence: `LSTM`, stacks of layers, and `LSTMCell`, one step."""

from jaxgen.nn.lstm import LSTM, LSTMCell
from jaxgen.ops.lstm import LSTMCarry

__all__ = ["LSTM", "LSTMCarry", "LSTMCell"]

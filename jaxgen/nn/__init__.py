"""Flax Linen modules: `LSTM`, stacks of layers; `LSTMCell`, one step; `AdaptiveSoftmax`."""

from jaxgen.nn.adaptive_softmax import AdaptiveSoftmax
from jaxgen.nn.lstm import LSTM, LSTMCell
from jaxgen.ops.clusters import Clusters, make_clusters
from jaxgen.ops.lstm import LSTMCarry

__all__ = ["LSTM", "AdaptiveSoftmax", "Clusters", "LSTMCarry", "LSTMCell", "make_clusters"]

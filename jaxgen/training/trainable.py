"""What a task hands to training: its state, its step, its batches, its figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxgen.training.optimizers import Schedule
from jaxgen.training.step import TrainState, TrainStep
from jaxgen.types import PyTree, Sum


@runtime_checkable
class BatchSource(Protocol):
    """Training batches in order: a pure function of where they are.

    One that knows where the training ends has `total_steps` too, which then counts in the place of
    `training.epochs`.
    """

    @property
    def batches_per_epoch(self) -> int:
        """Batches in one pass over the data, in every epoch; the carry starts anew with each."""

    @property
    def shapes(self) -> Sequence[PyTree]:
        """Shapes and types (`jax.ShapeDtypeStruct`) of one batch: all that there are."""

    def same_shape(self, epoch: int, first: int) -> int:
        """Batches of one shape from `first` on."""

    def read(self, epoch: int, first: int, count: int, rows: slice = slice(None)) -> PyTree:
        """NumPy arrays [count, B, ...] of consecutive batches of one shape, or of some rows."""


class Objective(NamedTuple):
    """The figure of an evaluation that decides: best checkpoint, early stopping, averaging."""

    name: str
    """As the evaluation calls it: "nll", "accuracy", "bleu"."""
    higher_is_better: bool = False
    shown: tuple[str, Callable[[float], float]] | None = None
    """Another unit to show it in: ("perplexity", math.exp)."""
    unit: str = ""
    """Of the figure itself, such as "nats per token"."""
    counts: str = "tokens"
    """What the weights of a step count, and throughput with them: "tokens", "examples"."""

    def better(self, value: float, than: float) -> bool:
        """Whether one value is better than another; equals are not."""
        return value > than if self.higher_is_better else value < than

    def best(self, values: Sequence[float]) -> int:
        """Index of the best value, of equals the first."""
        return values.index(max(values) if self.higher_is_better else min(values))

    @property
    def shown_name(self) -> str:
        """Name of the figure in the unit to show."""
        return self.name if self.shown is None else self.shown[0]

    def show(self, value: float) -> float:
        """The value in the unit to show."""
        return value if self.shown is None else self.shown[1](value)


class Evaluation(NamedTuple):
    """How parameters are measured on held-out data."""

    warm_up: Callable[[PyTree], Any]
    """Compiles what measuring takes, given parameters (zeros will do)."""
    sums: Callable[[PyTree], dict[str, Sum]]
    """Of some parameters; of several runs stacked, every leaf has the runs first."""
    generated: Callable[[PyTree], dict[str, float]] | None = None
    """Figures of generated text, of the parameters of one run."""


class Sample(NamedTuple):
    """A text to show while training."""

    title: str
    text: str


@dataclass(frozen=True)
class Trainable:
    """All that training needs to know of a task."""

    init_state: Callable[[Any], TrainState]
    """The state before the first step, from a key. Jitted by training."""
    train_step_on: Callable[[str | None], TrainStep]
    """The step, summing gradients over a mesh axis where one is named. Jitted by training."""
    batches: BatchSource
    initial_carry: PyTree
    """The model's memory at the start of each epoch; batch first."""
    rates: Mapping[str, Schedule]
    """Learning rates and the like by name, to be reported."""
    figures: Callable[[Mapping[str, Sum]], dict[str, float]]
    """Figures from sums, for the rows of training and of evaluation alike."""
    objective: Objective
    evaluation: Evaluation | None = None
    """None: nothing is held out."""
    sample: Callable[[PyTree], Sequence[Sample]] | None = None
    """Writes samples. It must not keep the parameters: the next step reuses their memory."""
    pretrained: PyTree = field(default_factory=dict)
    """Parameters to begin with, of another run or counted in the data: part of the tree of
    parameters, nested dicts of NumPy arrays. The rest are those of `init_state`."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """A digest of each part of the corpus: a resumed run compares them."""
    alarm: Callable[[Mapping[str, float]], str | None] | None = None
    """What the user should know of the figures of an evaluation, if anything: said once a run."""
    plotted: Sequence[str] = ()
    """Figures of training that are drawn beside the objective, at each evaluation."""

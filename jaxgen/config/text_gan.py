"""Settings of a text GAN: an LSTM generator trained against a discriminator."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from jaxgen.config.base import Config, Fraction, NonNegative, Positive, Rate, Seed, Size
from jaxgen.config.data import CorpusConfig
from jaxgen.config.experiment import Experiment
from jaxgen.config.optimizer import OptimizerConfig
from jaxgen.config.tokenizer import TokenizerConfig
from jaxgen.config.training import TrainingConfig

ESTIMATORS: dict[str, dict[str, Any]] = {
    "gumbel": {"temperature_start": 1.0, "temperature_end": 0.1},
    "rollouts": {"rollouts": 16, "baseline_decay": 0.08},
    "dense": {"discount": 0.23, "baseline_decay": 0.08},
}
"""The estimators of the generator's gradient, and the settings that are theirs with defaults."""


class TextGanData(CorpusConfig):
    """Short texts, one a line or a row; with neither `dataset` nor `files`: `embedded`."""

    column: str = "text"
    """Column with the text; a number where a csv or tsv has no header line."""
    validation_fraction: Fraction = 0.05
    """Share of the training texts drawn for validation where no split or file is given."""
    test_fraction: Fraction = 0.05
    """Share of the training texts drawn for testing where no split or file is given."""
    label_column: str | None = None
    """Column with the label that both models are told (default: no labels)."""
    embedded: Literal["sentences", "oracle"] = "sentences"
    """Texts that need no network: sentences of a small grammar, or samples of an oracle, a random
    LSTM that says how likely each text is."""
    oracle: Path | None = None
    """The oracle's parameters, an npz file (default: drawn from `oracle_seed`)."""
    oracle_seed: Seed = 0
    """Seed of the oracle's parameters, where no file gives them."""
    oracle_vocab_size: Positive = 5000
    """Its tokens, where no file gives them."""
    examples: Positive = 10_000
    """Texts that the oracle writes for training, and as many held out."""
    max_length: Positive = 20
    """Most tokens of a text; shorter ones are padded. All texts of an oracle have as many."""
    too_long: Literal["refuse", "cut", "drop"] = "refuse"
    """What is done with longer texts: refuse the data, cut their end, or leave them out."""

    changeable_on_resume = CorpusConfig.changeable_on_resume | {"oracle"}

    @model_validator(mode="after")
    def _embedded_is_used(self) -> Self:
        if (self.dataset or self.files) and self.embedded == "oracle":
            raise ValueError(
                '`data.embedded` = "oracle" takes the place of `data.dataset` and `data.files`; '
                "leave it, or them, out"
            )
        if self.oracle is not None and self.embedded != "oracle":
            raise ValueError(
                f'`data.oracle` is for `data.embedded` = "oracle", got {self.oracle}; set that too'
            )
        if self.label_column is not None and self.embedded == "oracle":
            raise ValueError(
                "`data.label_column` is for texts with labels, and an oracle's have none, got "
                f"{self.label_column!r}; leave it out"
            )
        return self


class TextGanTokenizer(TokenizerConfig):
    """How text becomes token ids; an oracle's texts are integers whatever is set here."""

    kind: Literal["byte", "char", "word", "bpe"] = "word"
    """Unit of text: UTF-8 bytes, characters, white-space words or BPE pieces."""


class TextGanConfig(Config):
    """An LSTM generator and a discriminator."""

    embedding_size: Size = 32
    """Size of the generator's token embedding."""
    hidden_size: Size = 32
    """Units of each of its LSTM layers."""
    num_layers: Positive = 1
    """Its LSTM layers."""
    noise_size: Annotated[int, Field(ge=0, le=2**28)] = 0
    """Noise that enters its first carry and every step; 0: chance is in the tokens alone."""
    discriminator: Literal["lstm", "cnn"] = "lstm"
    """What tells texts apart: an LSTM, with a score after each token, or SeqGAN's CNN, with one a
    text."""
    discriminator_embedding_size: Size = 64
    """Size of the discriminator's token embedding."""
    discriminator_hidden_size: Size = 64
    """Units of each LSTM layer of the discriminator."""
    discriminator_layers: Positive = 1
    """LSTM layers of the discriminator."""
    discriminator_pooling: tuple[Literal["last", "mean", "max", "attention"], ...] = ()
    """What the LSTM discriminator makes one score a text of (default: a score after each token)."""
    layer_norm: bool = False
    """Normalise the layers of the LSTM discriminator."""
    filter_widths: tuple[Positive, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20)
    """Tokens that the filters of the CNN span."""
    filters: tuple[Positive, ...] = (100, 200, 200, 200, 200, 100, 100, 100, 100, 100, 160, 160)
    """Filters of each width."""
    discriminator_dropout: Rate = 0.0
    """Dropout on what the discriminator's last layer reads; SeqGAN has 0.25."""

    @property
    def scores_each_token(self) -> bool:
        """Whether the discriminator has a score after each token."""
        return self.discriminator == "lstm" and not self.discriminator_pooling

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if len(self.filter_widths) != len(self.filters):
            raise ValueError(
                "`model.filter_widths` and `model.filters` must be as many, got "
                f"{len(self.filter_widths)} and {len(self.filters)}; give a number of filters for "
                "each width"
            )
        for name in ("layer_norm", "discriminator_pooling"):
            if getattr(self, name) and self.discriminator == "cnn":
                raise ValueError(
                    f'`model.{name}` is for `model.discriminator` = "lstm", got cnn; leave it out'
                )
        return self


class TextGanTraining(TrainingConfig):
    """The training loop; a row of a batch is one text."""

    epochs: Annotated[float, Field(gt=0)] = 40.0
    """Passes over the texts by maximum likelihood, before the adversarial training."""
    evaluate_every: Positive | None = 500
    """Steps between evaluations; of both models, each update is a step."""
    label_dropout: Rate = 0.1
    """Share of the texts whose label is replaced by the null label, anew in each epoch."""

    changeable_on_resume = frozenset({"max_steps", "max_minutes", "patience"})

    @model_validator(mode="after")
    def _one_batch_a_step(self) -> Self:
        for name, only in (("accumulate_steps", 1), ("averaging", "none")):
            if getattr(self, name) != only:
                raise ValueError(
                    f"`training.{name}` must be {only} for text GANs, got {getattr(self, name)}; "
                    "leave it out"
                )
        return self


class AdversarialConfig(Config):
    """The adversarial training."""

    steps: NonNegative = 2000
    """Steps of the generator."""
    discriminator_steps: Positive = 1
    """Steps of the discriminator before each of them."""
    discriminator_pretrain_steps: NonNegative = 200
    """Steps of the discriminator alone, before the first of them."""
    from_scratch: bool = False
    """The generator begins as it was drawn; what maximum likelihood learned is only compared."""
    estimator: Literal["gumbel", "rollouts", "dense"] = "dense"
    """How the generator's gradient is estimated: straight through Gumbel-softmax samples; policy
    gradient with Monte-Carlo roll-outs (SeqGAN); or with the discriminator's score after each
    token (ScratchGAN)."""
    loss: Literal["non_saturating", "hinge", "relativistic"] = "non_saturating"
    """What the two models minimise."""
    temperature_start: Annotated[float, Field(gt=0)] | None = None
    """Temperature of the Gumbel-softmax at the first step (default: 1)."""
    temperature_end: Annotated[float, Field(gt=0)] | None = None
    """At the last (default: 0.1); between them its logarithm is linear."""
    rollouts: Positive | None = None
    """Roll-outs from each token of a text (default: 16)."""
    discount: Annotated[float, Field(ge=0, le=1)] | None = None
    """What a reward counts one token earlier (default: 0.23)."""
    baseline_decay: Rate | None = None
    """Decay of the moving mean of rewards that is subtracted from them (default: 0.08)."""
    entropy_bonus: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the entropy of the generator's predictions, which keeps it from collapse."""

    changeable_on_resume = frozenset({"steps"})

    @property
    def own(self) -> dict[str, Any]:
        """The settings that are the estimator's alone."""
        own = ESTIMATORS[self.estimator].items()
        return {
            name: default if getattr(self, name) is None else getattr(self, name)
            for name, default in own
        }

    @model_validator(mode="after")
    def _settings_of_the_estimator(self) -> Self:
        for names in ESTIMATORS.values():
            for name in names:
                if getattr(self, name) is None or name in ESTIMATORS[self.estimator]:
                    continue
                has = [other for other, its in ESTIMATORS.items() if name in its]
                raise ValueError(
                    f"`adversarial.{name}` is for `adversarial.estimator` "
                    f"{' and '.join(has)}, got {getattr(self, name)} with {self.estimator}; leave "
                    "it out, or choose another estimator"
                )
        if self.from_scratch and not self.steps:
            raise ValueError(
                "`adversarial.from_scratch` begins the adversarial training, and "
                "`adversarial.steps` is 0; raise it, or turn it off"
            )
        if self.loss == "relativistic" and self.estimator != "gumbel":
            raise ValueError(
                '`adversarial.loss` = "relativistic" compares a text with a real one, and the '
                f"rewards of `adversarial.estimator` {self.estimator} are of one text; take the "
                "estimator gumbel, or another loss"
            )
        return self


class GeneratorOptimizer(OptimizerConfig):
    """Of the generator's adversarial steps; `optimizer` is that of maximum likelihood."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate."""


class DiscriminatorOptimizer(OptimizerConfig):
    """Of the discriminator."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate."""


class GanSamples(Config):
    """What each evaluation writes, to show and to measure."""

    shown: NonNegative = 4
    """Samples that are shown."""
    measured: Annotated[int, Field(ge=2)] = 500
    """Samples that quality, diversity and collapse are told from."""

    changeable_on_resume = frozenset({"shown"})


class TextGanExperiment(Experiment):
    """Training of a text GAN."""

    task: Literal["text_gan"] = "text_gan"
    data: TextGanData = TextGanData()
    tokenizer: TextGanTokenizer = TextGanTokenizer()
    model: TextGanConfig = TextGanConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    generator_optimizer: GeneratorOptimizer = GeneratorOptimizer()
    discriminator_optimizer: DiscriminatorOptimizer = DiscriminatorOptimizer()
    training: TextGanTraining = TextGanTraining()
    adversarial: AdversarialConfig = AdversarialConfig()
    samples: GanSamples = GanSamples()

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.adversarial.estimator == "dense" and not self.model.scores_each_token:
            raise ValueError(
                '`adversarial.estimator` = "dense" needs a score after each token, and '
                f"`model.discriminator` {self.model.discriminator} has one a text here; take lstm "
                "without `model.discriminator_pooling`, or the estimator rollouts or gumbel"
            )
        return self

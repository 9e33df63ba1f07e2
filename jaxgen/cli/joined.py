"""Options that join models, or hold texts to an expression."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import DisallowNone, arg

from jaxgen.cli.options import said
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Ensemble:
    """Which models choose the tokens together."""

    ensemble: Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]", help_behavior_hint="")] = ()
    """Choose each token together with the models of these runs. A directory of seeds stands for
    all its runs, and may be RUN too: SEEDS --ensemble SEEDS. A run that comes up twice counts
    once."""
    ensemble_weights: Annotated[tuple[float, ...], said] = ()
    """A weight for each of them, RUN first; a directory of seeds shares its own (default: all
    models weigh the same)."""
    ensemble_mode: Annotated[Literal["average", "product"], said] = "average"
    """Weighted average of the probabilities, or their product to the power of the weights, where a
    negative one steers away from a model."""

    def check(self) -> None:
        """UserError for options that do not go together, before a model is looked for."""
        named = ("ensemble_weights", "ensemble_mode")
        given = [name for name in named if getattr(self, name) != getattr(type(self), name)]
        if given and not self.ensemble:
            raise UserError(
                f"--{given[0].replace('_', '-')} is for --ensemble: leave it out, or give "
                "--ensemble"
            )

    def load(self, run: Path, checkpoint: Any) -> Any:
        """The model of a run, together with those of the ensemble."""
        from jaxgen.experiment import load
        from jaxgen.saved import load_ensemble

        if not self.ensemble:
            return load(run, checkpoint)
        paths: Sequence[Path] = (run, *self.ensemble)
        weights = self._weights(paths)
        return load_ensemble(paths, weights=weights, mode=self.ensemble_mode, which=checkpoint)

    def _weights(self, paths: Sequence[Path]) -> Sequence[float] | None:
        if not self.ensemble_weights:
            return None
        if len(self.ensemble_weights) != len(paths):
            raise UserError(
                f"--ensemble-weights must hold one number for each of the {len(paths)} runs, RUN "
                f"first, got {len(self.ensemble_weights)}"
            )
        return self.ensemble_weights


@dataclass(frozen=True)
class Joined(Ensemble):
    """Which models choose the tokens together, and what the texts have to match."""

    regex: Annotated[str | None, DisallowNone, arg(metavar="EXPR", help_behavior_hint="")] = None
    """Hold each text, the prompt aside, to this regular expression (needs jaxgen[regex])."""

    def load(self, run: Path, checkpoint: Any) -> Any:
        """The model of a run, together with those of the ensemble, held to the expression."""
        lm = super().load(run, checkpoint)
        if self.regex is None:
            return lm
        from jaxgen.tasks.matching import matching

        return matching(lm, self.regex)

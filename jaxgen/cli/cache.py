"""Options of a continuous cache, which a trained model gets without further training."""

import sys
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import DisallowNone

from jaxgen.cli.options import said
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Cache:
    """How a language model remembers its last tokens."""

    cache: Annotated[int | None, DisallowNone, said] = None
    """Of a language model: remember so many of the last tokens, and mix in what followed states
    like the present one. Theta and lambda are chosen on the validation text unless both are
    given. `evaluate` says how good that is beside the plain figures."""
    cache_theta: Annotated[float | None, DisallowNone, said] = None
    """With --cache: how much likelier states are that resemble the present one; 0 only counts."""
    cache_lambda: Annotated[float | None, DisallowNone, said] = None
    """With --cache: the share of the cache in the probabilities, below 1."""

    def options(self) -> dict[str, Any]:
        """Those that are given, by name."""
        values = {name: getattr(self, name) for name in ("cache", "cache_theta", "cache_lambda")}
        return {name: value for name, value in values.items() if value is not None}

    def check(self) -> None:
        """UserError for options that do not go together, before a model is looked for."""
        others = [name for name in self.options() if name != "cache"]
        if others and self.cache is None:
            raise UserError(
                f"--{others[0].replace('_', '-')} is for --cache: leave it out, or give --cache"
            )

    def remembering(self, lm: Any) -> Any:
        """The model with its cache, if it is to have one; what was chosen is said."""
        if self.cache is None:
            return lm
        from jaxgen.tasks.cached import with_cache

        lm = with_cache(lm, self.cache, theta=self.cache_theta, lambda_=self.cache_lambda)
        chosen = self.facts(lm)["cache"]
        if len(self.options()) < 3:
            print(
                "chosen on the validation text; give them to spare the search: --cache-theta "
                f"{chosen['theta']:g} --cache-lambda {chosen['lambda']:g}",
                file=sys.stderr,
            )
        return lm

    def facts(self, lm: Any) -> dict[str, Any]:
        """What a report says of the cache of a model."""
        if self.cache is None:
            return {}
        theta, lambda_ = (round(float(x), 6) for x in (lm.params.theta, lm.params.lambda_))
        return {"cache": {"window": self.cache, "theta": theta, "lambda": lambda_}}

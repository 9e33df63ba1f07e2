"""Whether a text GAN is better than maximum likelihood, whose temperature trades one for the other.

A model of maximum likelihood (MLE) buys quality with diversity as its temperature falls, so that a
GAN is compared with the whole curve of temperatures: at equal quality, what does diversity cost?
Source: Caccia et al. (2020), Language GANs Falling Short.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any, NamedTuple

from jaxgen.errors import UserError
from jaxgen.evaluation.gan_figures import ORDERS, Row, best_temperature, known, mean_row


class Axis(NamedTuple):
    """A figure as an axis of the plane in which models are compared."""

    name: str
    title: str
    higher_is_better: bool = False

    def cost(self, row: Row) -> float:
        """The figure, or its negative, so that less is better."""
        return float(-row[self.name] if self.higher_is_better else row[self.name])


class Plane(NamedTuple):
    """What quality is told from, and what diversity."""

    quality: Axis
    diversity: Axis
    """Less is better of every one there is."""


PLANES = (
    Plane(Axis("nll_oracle", "NLL_oracle"), Axis("nll_test", "NLL_test")),
    *(
        Plane(
            Axis(f"bleu_{n}", f"BLEU-{n}", higher_is_better=True),
            Axis(f"self_bleu_{n}", f"Self-BLEU-{n}"),
        )
        for n in reversed(ORDERS)
    ),
)


class Comparison(NamedTuple):
    """One GAN beside the curve of its MLE; smaller differences are better."""

    difference: float | None
    """Its diversity less that of MLE at equal quality; None where no temperature has its quality.
    Above 0 the GAN loses."""
    temperature: float | None
    """At which MLE has its quality."""
    dominated: bool
    """Whether MLE at one of its temperatures is better in one and not worse in the other."""
    dominates: bool
    """Whether the GAN is so beside MLE at one of its temperatures."""


def joined(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a run out of those of each of its seeds.

    Args:
        runs: for each seed the rows `gan`, `mle` (the generator of maximum likelihood alone at
            temperature 1) and `train` (the training texts themselves), and `mle_sweep`, rows of
            several temperatures, rising, and perhaps `gan_sweep`; the same for every seed.

    Returns:
        The rows of these names over all seeds; `mle_best`, MLE at its best temperature; `verdict`.

    Raises:
        UserError: as `best_temperature` and `verdict`.
    """
    figures: dict[str, Any] = {
        name: mean_row([run[name] for run in runs]) for name in ("gan", "mle", "train")
    }
    for name in ("mle_sweep", "gan_sweep"):
        if all(name in run for run in runs):
            figures[name] = [
                mean_row(rows) for rows in zip(*(run[name] for run in runs), strict=True)
            ]
    sweep = figures["mle_sweep"]
    return figures | {"mle_best": sweep[best_temperature(sweep)], "verdict": verdict(runs)}


def verdict(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether the GAN wins over MLE, of all seeds together.

    Args:
        runs: as in `joined`; `train` is not looked at.

    Returns:
        `outcome`: "loses", "on" the curve, "beyond" it, or "undecided"; `quality` and `diversity`,
        the names of the figures that it is told from; `difference`, the mean over the seeds, see
        `Comparison`, and `deviation`, its standard deviation, where known; `temperature`, where MLE
        has the quality of the GAN; `seeds`. On the curve is a mean within two standard errors of
        0, of which one seed has none.

    Raises:
        UserError: the rows lack what quality and diversity are told from.
    """
    plane = plane_of([row for run in runs for row in (run["gan"], *run["mle_sweep"])])
    found = [compare(run["gan"], run["mle_sweep"], plane) for run in runs]
    result: dict[str, Any] = {
        "outcome": "undecided",
        "quality": plane.quality.name,
        "diversity": plane.diversity.name,
        **{"difference": None, "deviation": None, "temperature": None},
        "seeds": len(runs),
    }
    differences = [x.difference for x in found if x.difference is not None]
    if len(differences) == len(found):
        mean = result["difference"] = fmean(differences)
        result["temperature"] = fmean(x.temperature for x in found if x.temperature is not None)
        margin = 0.0
        if len(found) > 1:
            result["deviation"] = stdev(differences)
            margin = 2 * result["deviation"] / math.sqrt(len(found))
        result["outcome"] = "loses" if mean > margin else "beyond" if mean < -margin else "on"
    elif all(x.dominated for x in found):
        result["outcome"] = "loses"
    elif all(x.dominates for x in found):
        result["outcome"] = "beyond"
    return result


def plane_of(rows: Sequence[Row]) -> Plane:
    """What rows are compared by: likelihoods where all have them, else the longest n-grams.

    Raises:
        UserError: they have neither.
    """
    for plane in PLANES:
        if all(known(row, axis.name) for row in rows for axis in plane):
            return plane
    raise UserError(
        "a GAN is compared with MLE by nll_oracle and nll_test, or by bleu_n and self_bleu_n, of "
        "which all rows must have both; measure them of every temperature"
    )


def compare(gan: Row, sweep: Sequence[Row], plane: Plane) -> Comparison:
    """One GAN beside MLE at the temperature at which it has the same quality.

    Between two temperatures that were measured, the curve is a straight line; where several have
    the quality, the most diverse counts.
    """
    own = tuple(axis.cost(gan) for axis in plane)
    points = [tuple(axis.cost(row) for axis in plane) for row in sweep]
    crossings = []
    steps = pairwise(zip(points, (row["temperature"] for row in sweep), strict=True))
    for ((q0, d0), t0), ((q1, d1), t1) in steps:
        if min(q0, q1) <= own[0] <= max(q0, q1):
            share = (own[0] - q0) / (q1 - q0) if q1 != q0 else float(d1 < d0)
            crossings.append((d0 + share * (d1 - d0), t0 + share * (t1 - t0)))
    diversity, temperature = min(crossings, default=(None, None))
    return Comparison(
        None if diversity is None else own[1] - diversity,
        temperature,
        any(_dominates(point, own) for point in points),
        any(_dominates(own, point) for point in points),
    )


def _dominates(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))


def sentences(figures: Mapping[str, Any]) -> list[str]:
    """In words how the GAN compares with MLE and with real text.

    Args:
        figures: of `joined`.
    """
    found = figures["verdict"]
    plane = next(p for p in PLANES if p.quality.name == found["quality"])
    quality, diversity = plane.quality.title, plane.diversity.title
    heads = {
        "loses": "The GAN loses against MLE",
        "on": "The GAN is on the curve of MLE, neither better nor worse",
        "beyond": "The GAN is better than MLE",
        "undecided": "Undecided",
    }
    head = heads[found["outcome"]]
    if found["difference"] is not None:
        seeds = found["seeds"]
        spread = "of one seed, so that chance may be all of it"
        if seeds > 1:
            spread = f"with a standard deviation of {found['deviation']:.4f} over {seeds} seeds"
        lines = [
            f"{head}: its {diversity} is {abs(found['difference']):.4f} "
            f"{'higher' if found['difference'] > 0 else 'lower'} than that of MLE at temperature "
            f"{found['temperature']:.2f}, which has the same {quality} ({spread})."
        ]
    elif found["outcome"] == "undecided":
        lines = [
            f"{head}: none of the temperatures of MLE has the {quality} of the GAN in every seed; "
            "measure lower or higher ones."
        ]
    else:
        lines = [f"{head} in both {quality} and {diversity}."]
    real, gan, mle = (figures[name] for name in ("train", "gan", "mle"))
    both = known(gan, "fed") and known(mle, "fed")
    if found["outcome"] == "beyond" and both and gan["fed"] > mle["fed"]:
        lines.append(
            f"By the Fréchet distance it loses: {gan['fed']:.4f}, that of MLE at temperature 1 is "
            f"{mle['fed']:.4f}."
        )
    by_ngrams = plane.quality.higher_is_better and all(known(real, axis.name) for axis in plane)
    if by_ngrams and all(gan[axis.name] > real[axis.name] for axis in plane):
        lines.append(
            f"Its {quality} and its {diversity} are both above those of real text, which is a sign "
            "of collapse, not of quality."
        )
    return lines

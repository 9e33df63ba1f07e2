"""jaxgen's contestants with an adaptive softmax, and with a full one on the same tokens."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks.adaptive_cases import AdaptiveCase
from benchmarks.jaxgen_lm import JaxgenTraining, model_of, params_of
from benchmarks.jaxgen_sampler import JaxgenSampling
from jaxgen.models.language_model import LanguageModel
from jaxgen.ops.clusters import Clusters


def clusters_of(case: AdaptiveCase) -> Clusters:
    """Tokens in the order of their ids, which is that of their frequencies."""
    order = np.arange(case.V, dtype="<i4").tobytes()
    return Clusters(case.cutoffs, case.cluster_shares, order)


def adaptive_model_of(
    case: AdaptiveCase, dtype: str = "float32", backend: str = "auto"
) -> LanguageModel:
    model = model_of(case, dtype, backend)
    if not case.adaptive:
        return model
    return model.clone(clusters=clusters_of(case), tail_divisor=case.divisor)


def adaptive_params_of(case: AdaptiveCase) -> dict[str, Any]:
    """The case's parameters as jaxgen's module names and orders them."""
    params = params_of(case)
    if not case.adaptive:
        return params
    source = case.parameters()
    output = {"head_kernel": params.pop("output_kernel"), "head_bias": params.pop("output_bias")}
    for tail, (begin, end) in enumerate(case.bounds[1:]):
        output[f"tail_{tail}_projection"] = jnp.asarray(source[f"tail.{tail}.projection"].T)
        output[f"tail_{tail}_kernel"] = jnp.asarray(source[f"tail.{tail}.weight"].T)
        output[f"tail_{tail}_bias"] = jnp.zeros(end - begin)
    return {**params, "output": output}


class AdaptiveTraining(JaxgenTraining):
    """As `JaxgenTraining`, of an `AdaptiveCase`."""

    case_type = AdaptiveCase
    model_of = staticmethod(adaptive_model_of)
    params_of = staticmethod(adaptive_params_of)


class AdaptiveSampling(JaxgenSampling):
    """As `JaxgenSampling`, of an `AdaptiveCase`."""

    case_type = AdaptiveCase
    model_of = staticmethod(adaptive_model_of)
    params_of = staticmethod(adaptive_params_of)

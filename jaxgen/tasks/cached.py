"""Language models that remember: a continuous cache whose settings are chosen on held-out text."""

from jaxgen.errors import UserError
from jaxgen.generation.cached_text import cached_model
from jaxgen.generation.text import TextModel
from jaxgen.tasks.adapted import cache_settings, check_cache, reader_of


def with_cache(
    lm: TextModel, window: int, *, theta: float | None = None, lambda_: float | None = None
) -> TextModel:
    """A language model that mixes in what followed states like the present one.

    The cache holds the last tokens of the prompt and of the new text; nothing is trained for it.
    `generate`, `sample`, `stream`, `beam_search`, `score` and `perplexity` then follow

        p = (1 - lambda) p_model + lambda p_cache,    p_cache(w) ~ sum of exp(theta h . h_i)

    over the remembered states h_i that w followed (Grave, Joulin & Usunier, 2017).

    Args:
        lm: from `jaxgen.load`.
        window: tokens to remember.
        theta: 0 or more. None: the best on the validation text of the model's corpus.
        lambda_: the cache's share, 0 or more and below 1. None: likewise.

    Returns:
        The same model with a cache; its `params` hold theta and lambda.

    Raises:
        UserError: a setting is out of its range; the model does not give its hidden states; or a
            setting is to be chosen, and there is no validation text, or the model is conditioned.
    """
    check_cache(window, theta, lambda_)
    if theta is not None and lambda_ is not None:
        return cached_model(lm, window, theta, lambda_)
    cached_model(lm, window, 0.0, 0.0)  # an error now, not after the corpus
    if lm.config is None or lm.config.task != "language_model":
        raise UserError(
            "`theta` and `lambda_` of a cache are chosen for models of task language_model alone; "
            "give both"
        )
    try:
        theta, lambda_ = cache_settings(reader_of(lm), window, theta, lambda_)
    except UserError as error:
        raise UserError(f"{error}; or give `theta` and `lambda_` of the cache") from error
    return cached_model(lm, window, theta, lambda_)

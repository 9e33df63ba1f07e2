"""How good an encoder-decoder is on a part of a corpus: figures of tokens, and of translations."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxgen.config import PairData
from jaxgen.data.pair_buckets import PairRows, encoded_pairs, pair_shapes, pairs_by_shape
from jaxgen.data.pairs import PairCorpus, Pairs, load_pairs
from jaxgen.data.ragged import Ragged
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.errors import UserError
from jaxgen.evaluation.nearest_pair import NearestPairs
from jaxgen.evaluation.perplexity import perplexity
from jaxgen.evaluation.sums import make_sums
from jaxgen.evaluation.translation import (
    can_score,
    check_bleu,
    exact_match,
    translation_figures,
)
from jaxgen.generation.joined import JoinedStep
from jaxgen.generation.translator import Translator
from jaxgen.models.seq2seq import Seq2Seq, seq2seq_loss
from jaxgen.models.seq2seq_decoding import Seq2SeqStep
from jaxgen.training.seeds import SeedLayout, over_seeds
from jaxgen.training.trainable import Evaluation
from jaxgen.types import PyTree, Sum

EVALUATION_TOKENS = 8192
"""Padded tokens of a batch of pairs to evaluate on."""
EVALUATION_SHAPES = 4
"""Shapes of these batches, at most."""
EVALUATE_OPTIONS = ("beam_size", "baselines", "bleu_tokenize")
"""What `evaluate` takes besides `split`."""


def encode(config: PairData, source: Tokenizer, target: Tokenizer, pairs: Pairs) -> PairRows:
    """The rows of a part of the corpus."""
    sides = ((source, pairs.sources), (target, pairs.targets))
    sources, targets = (
        Ragged.from_rows(tokenizer.encode_many(texts)[0]) for tokenizer, texts in sides
    )
    if target.eos_id is None:
        raise ValueError("a tokenizer of targets has <eos>")
    return encoded_pairs(
        sources,
        targets,
        config,
        bos=target.start_id,  # <eos> where a language model's has no <bos>
        eos=target.eos_id,
        name=pairs.name,
    )


def figures_of(sums: Mapping[str, Sum]) -> dict[str, float]:
    """Nats a target token, the perplexity, and the share of tokens foretold rightly, if counted."""
    mean = {
        name: float(found.total) / max(float(found.weight), 1.0) for name, found in sums.items()
    }
    nll = mean.pop("nll")
    return {"nll": nll, "perplexity": perplexity(nll), **mean}


def held_out_evaluation(
    model: Seq2Seq, held_out: PairRows | None, seeds: SeedLayout | None
) -> Evaluation | None:
    """The sums of the loss over the validation pairs; None without any."""
    if held_out is None:
        return None
    model = model if seeds else model.clone(backend="auto")
    sums = make_sums(
        partial(seq2seq_loss, model),
        batches_per_dispatch=8,
        over_runs=None if seeds is None else partial(over_seeds, layout=seeds),
    )
    shapes = pair_shapes(held_out, EVALUATION_SHAPES)

    def measure(params: PyTree) -> dict[str, Sum]:
        batches = pairs_by_shape(held_out, EVALUATION_TOKENS, shapes)
        return sums(params, (), (batch for _, batch in batches))

    return Evaluation(measure, measure)


def evaluate(
    translator: Translator, data: PairCorpus, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure a model on a part of a corpus, beside the copying of the nearest training pair.

    Args:
        translator: From `load`.
        data: The corpus, or pairs of other files.
        options: `split`, the part; `beam_size` of the search (default: that of the settings);
            `bleu_tokenize`, how sacreBLEU divides texts into words (default: "none" for a model
            of words, else "13a"); `baselines`, whether to read the training pairs again to copy
            from beside pairs of other files (those of the corpus are there anyway).

    Returns:
        `pairs`; `nll` in nats per token of the real target tokens, `perplexity` and
        `token_accuracy` of them (not of an ensemble); `exact_match` of the translations, and where
        sacreBLEU is installed `bleu` and `chrf` with their signatures, and under `nearest_pair`
        the same of copies. Each kind of pairs that is measured apart has these figures of
        translations under its name.

    Raises:
        UserError: An option is out of its range, or asks for what is not there.
    """
    experiment = translator.config
    pairs: Pairs = getattr(data, options["split"])
    beams = options.get("beam_size", experiment.translation.beam_size)
    if beams < 1:
        raise UserError(f"`beam_size` must be at least 1, got {beams}")
    settings = {"length_penalty": experiment.translation.length_penalty} if beams > 1 else {}
    scored = partial(_scored, tokenize=_bleu_tokenizer(translator, options))
    nearest = _nearest_pairs(translator, data, options)

    def measured(part: Pairs) -> dict[str, Any]:
        outputs = translator.translate(list(part.sources), beam_size=beams, **settings)
        figures = scored(outputs, part.targets)
        if nearest is not None:
            figures["nearest_pair"] = scored(nearest.translate(part.sources), part.targets)
        return figures

    figures = {"text": pairs.name, "pairs": len(pairs), "beam_size": beams}
    figures |= _of_tokens(translator, pairs) | measured(pairs)
    apart = data.apart if pairs is data.test else {}
    return figures | {
        name: {"pairs": len(other)} | measured(other) for name, other in apart.items()
    }


def _bleu_tokenizer(translator: Translator, options: Mapping[str, Any]) -> str:
    """How BLEU divides texts into words; UserError where it cannot, before any is translated."""
    chosen = options.get("bleu_tokenize")
    if chosen is None:
        return "none" if translator.tokenizer.kind == "word" else "13a"
    check_bleu(chosen, name="`bleu_tokenize`")
    return str(chosen)


def _nearest_pairs(
    translator: Translator, data: PairCorpus, options: Mapping[str, Any]
) -> NearestPairs | None:
    """The training pairs to copy from; None where they are what is measured, or not at hand."""
    asked = options.get("baselines")
    if options["split"] == "train":
        if asked:
            raise UserError(
                "`baselines` copies from the training pairs, so it says nothing of the training "
                "part; choose the split test or validation"
            )
        return None
    train = data.train
    if train is data.test:  # other files
        if not asked:
            return None
        train = load_pairs(translator.config.data).train
    whole = translator.source_tokenizer.kind in ("char", "byte")
    return NearestPairs(train.sources, train.targets, list if whole else str.split)


def _of_tokens(translator: Translator, pairs: Pairs) -> dict[str, float]:
    """The figures of target tokens, each given the real ones before it; of an ensemble the nll."""
    if isinstance(translator.step_fn, JoinedStep):
        scores = np.concatenate(translator.score(list(pairs.sources), list(pairs.targets)))
        nll = -float(scores.mean(dtype=np.float64))
        return {"nll": nll, "perplexity": perplexity(nll)}
    assert isinstance(translator.step_fn, Seq2SeqStep)
    model = translator.step_fn.model.clone(backend="auto")
    tokenizers = translator.source_tokenizer, translator.tokenizer
    rows = encode(translator.config.data, *tokenizers, pairs)
    sums = make_sums(partial(seq2seq_loss, model), batches_per_dispatch=8)
    shapes = pair_shapes(rows, EVALUATION_SHAPES)
    batches = pairs_by_shape(rows, EVALUATION_TOKENS, shapes)
    return figures_of(sums(translator.params, (), (batch for _, batch in batches)))


def _scored(outputs: list[str], references: Sequence[str], tokenize: str) -> dict[str, Any]:
    """The figures of translations, those of sacreBLEU where it is installed."""
    if not can_score():
        return {"exact_match": exact_match(outputs, references)}
    return translation_figures(outputs, references, tokenize=tokenize)

"""Labels and guidance in strings-in, strings-out generation, against plain labels."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from generation.text_models import make_labelled_model, make_model
from generation.toy_models import log_softmax

from jaxgen.errors import UserError
from jaxgen.generation.guidance import GuidedCarry
from jaxgen.models.language_model import LanguageModelCarry

pytestmark = pytest.mark.slow

TEXT = "abcde"
SHORT = {"max_new_tokens": 6, "temperature": 0.9}
FORMS = [
    ("joy", 2.0, {0: 2.0}),
    ("joy", 0.0, {}),
    (2, 1.5, {2: 1.5}),
    ("joy=3,fear=1", None, {0: 0.75, 1: 0.25}),
    ("not:anger", None, {2: -1.0}),
    ("joy=2, not:fear=0.5", 3.0, {0: 3.0, 1: -1.5}),
]


@pytest.fixture(scope="module")
def lm():
    return make_labelled_model()


def distribution(lm, **options):
    """Log-probabilities of the letters after a prompt of two; the rest is the unknown token's."""
    known = np.concatenate(lm.score(list(TEXT), prompt="ad", **options))
    return np.append(known, np.log1p(-np.exp(known, dtype=np.float64).sum()))


@pytest.mark.parametrize(("label", "guidance", "weights"), FORMS)
def test_scores_are_those_of_the_formula_over_plain_labels(lm, label, guidance, weights):
    plain = [distribution(lm, label=x) for x in ("joy", "fear", "anger", 3)]
    total = plain[3] + sum(w * (plain[x] - plain[3]) for x, w in weights.items())
    found = distribution(lm, label=label, guidance=guidance)
    np.testing.assert_allclose(found, log_softmax(total), rtol=1e-4, atol=1e-5)


def test_one_plain_label_is_one_row_of_the_model(lm):
    plain = lm.prefill(TEXT, label="joy").carry
    assert isinstance(plain, LanguageModelCarry)
    assert plain.labels.tolist() == [0]
    assert lm.prefill(TEXT).carry.labels.tolist() == [3]
    assert lm.prefill(TEXT, label="fear=0.2").carry.labels.tolist() == [1]
    for label, count in (("joy", 2), ("joy=1,not:fear", 3)):
        guided = lm.prefill(TEXT, label=label, guidance=1.0).carry
        assert isinstance(guided, GuidedCarry)
        assert guided.carries.labels.shape == (1, count)
    exact = lm.score(TEXT, label="joy", guidance=1.0)
    np.testing.assert_allclose(exact, lm.score(TEXT, label="joy"), rtol=1e-5)


def test_a_row_alone_is_the_same_row_in_a_batch(lm):
    labels = ["joy", "not:anger", "joy=0.7,fear=0.3", 3]
    keys, prompts = jax.random.split(jax.random.key(2), 4), [TEXT, "a", "cab", "ee"]
    strengths = [2.0, 1.0, 0.5, 1.0]
    whole = lm.sample(prompts, label=labels, guidance=strengths, key=keys, **SHORT)
    for row, label in enumerate(labels):
        options = {"label": label, "key": keys[row : row + 1], **SHORT}
        if row < 3:
            options["guidance"] = strengths[row]
        alone = lm.sample(prompts[row], **options)
        assert alone.tokens == whole[row].tokens
        np.testing.assert_allclose(alone.logprobs, whole[row].logprobs, rtol=1e-4, atol=1e-6)


def test_one_prompt_under_several_labels_and_strengths(lm):
    texts = lm.generate(TEXT, label="joy", guidance=[0.0, 1.0, 1.0], n=2, temperature=0)
    assert [len(row) for row in texts] == [2, 2, 2]
    assert texts[1] == texts[2] == 2 * [lm.generate(TEXT, label="joy", temperature=0)]
    scores = lm.score(TEXT, label=np.array([0, 1]))
    np.testing.assert_allclose(scores[1], lm.score(TEXT, label="fear"), rtol=1e-5)
    one, two = lm.perplexity(TEXT, label=["joy", "fear"])
    assert (one, two) == pytest.approx([np.exp(-x.mean()) for x in scores])


@pytest.mark.parametrize("prefill", [True, pytest.param(False)])
def test_every_way_of_writing_follows_the_same_guidance(lm, prefill):
    if not prefill:
        lm = replace(lm, prefill_fn=None)
    asked = {"label": "joy=2,not:fear", "guidance": 1.5}
    sample = lm.sample(TEXT, **asked, **SHORT)
    score = lm.score(sample.text, prompt=TEXT, **asked)
    np.testing.assert_allclose(sample.logprobs, score, rtol=1e-4)
    assert "".join(lm.stream(TEXT, chunk=4, **asked, **SHORT)) == sample.text
    state = lm.prefill(TEXT[3:], after=lm.prefill(TEXT[:3], **asked))
    assert lm.sample("", after=state, **SHORT) == sample
    greedy = lm.sample(TEXT, max_new_tokens=3, temperature=0, **asked).text
    beam = lm.beam_search(TEXT, num_beams=1, max_new_tokens=3, **asked)
    assert beam.text == greedy
    assert lm.beam_search("", after=state, num_beams=1, max_new_tokens=3) == beam


def test_changed_labels_weights_and_strengths_do_not_retrace(lm):
    traces = []

    def counted(params, carry, tokens):
        traces.append(1)
        return lm.step_fn(params, carry, tokens)

    counting = replace(lm, step_fn=counted)
    for asked in (
        [("joy", None), ("fear", None), (None, None), (3, None), ("anger=0.4", None)],
        [("joy", 1.0), ("fear", 2.5), ("not:anger", None), (2, 0)],
        [("joy=0.7,fear=0.3", None), ("fear,not:joy=0.1", None), ("joy=0,anger=2", 1.5)],
    ):
        counts = []
        for key, (label, guidance) in enumerate(asked):
            counting.generate(TEXT, label=label, guidance=guidance, key=key, **SHORT)
            counts.append(len(traces))
        assert counts == [counts[0]] * len(asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "jog"}, "must be one of joy, fear, anger, got 'jog', did you mean `joy`"),
        ({"label": ["joy", "hope"]}, "must be one of joy, fear, anger, got 'hope'"),
        ({"label": 4}, r"must be in \[0, 4\) or name joy, fear, anger, one or .*, got 4"),
        ({"label": 0.5}, "got 0.5"),
        ({"label": True}, "got True"),
        ({"label": []}, "`label` must hold at least one label, got an empty list"),
        ({"label": [["joy"], ["fear", "anger"]]}, r"got \['joy'\]"),
        ({"label": "joy=-1,fear=2"}, "0 or more, got 'joy=-1'"),
        ({"label": "joy=0,fear=0"}, "must sum to more than 0"),
        ({"label": "joy", "guidance": -1}, "finite number, 0 or more, got -1; 1 is plain"),
        ({"label": "joy", "guidance": np.nan}, "0 or more, got nan"),
        ({"label": "joy", "guidance": [1, np.inf]}, "0 or more, got inf"),
        ({"label": "joy", "guidance": 1e39}, r"0 or more, got 1e\+39"),
        ({"label": "joy", "guidance": "much"}, "a number, or one a row, got much"),
        ({"label": "joy", "guidance": [[1], [2, 3]]}, "a number, or one a row"),
        ({"label": "joy", "guidance": []}, "a number, or one a row"),
        ({"guidance": 2.0}, r"must stand beside a `label` that it strengthens, got 2.0 alone"),
        ({"prompt": ["a", "b"], "label": ["joy"] * 3}, "`label` must hold one value or one for"),
        ({"prompt": ["a", "b"], "label": 1, "guidance": [1, 2, 3]}, "`guidance` must hold one"),
    ],
)
def test_bad_labels_and_strengths_are_named(lm, options, message):
    with pytest.raises(UserError, match=message):
        lm.generate(**{"prompt": TEXT} | options)


def test_a_model_without_labels_and_a_state_refuse_them(lm):
    plain = make_model()
    for options in ({"label": "joy"}, {"guidance": 2.0}):
        (name,) = options
        with pytest.raises(UserError, match=f"`{name}` must be left out: this model has no labels"):
            plain.generate("a", **options)
        with pytest.raises(UserError, match=f"`{name}` is part of the state"):
            lm.generate(TEXT, after=lm.prefill(TEXT, label="joy"), **options)


def test_labels_without_names_are_integers(lm):
    unnamed = replace(lm, labels=())
    assert unnamed.generate(TEXT, label=1, **SHORT) == lm.generate(TEXT, label="fear", **SHORT)
    with pytest.raises(UserError, match=r"in \[0, 4\), one .*, got 'joy'; the labels .* no names"):
        unnamed.generate(TEXT, label="joy")

"""A server of one model of each kind without any that was trained, for the tests of the page."""

from dataclasses import replace
from typing import Any

from jaxgen.serving.classifying import ClassifierService
from jaxgen.serving.models import Models, ServedModel
from tests.serving.fake_engine import FakeEngine, fake_model, make_tokenizer
from tests.tiny_classifier import bag_of_words, table_of, with_function

LABELS = ("joy", "fear", "anger")
ATTENTION = [[0.9, 0.1, 0.0], [0.0, 0.2, 0.8]]


class FakeTranslator:
    """In the place of a `TranslatorService`: two translations, whose attention is known."""

    ready, failure = True, None

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def start(self) -> None: ...

    async def stop(self, grace: float = 30.0) -> None: ...

    async def translate(self, texts: list[str], **options: Any) -> dict[str, Any]:
        self.asked.append((texts, options))
        best = [
            {"text": text, "score": score, "tokens": [*text.split(), "<eos>"][:2]}
            | {"token_logprobs": [0.0, 0.0], "attention": ATTENTION}
            for text, score in (("drei Worte", -0.1), ("zwei Worte", -1.2))
        ]
        one = {"index": 0, "text": "drei Worte", "source_tokens": ["three", "words", "here"]}
        return {"data": [{**one, "translations": best[: options["n_best"]]}], "warnings": []}


class Site:
    """A server of one model of each kind, and what was asked of them."""

    def __init__(self) -> None:
        tokenizer = make_tokenizer()
        self.engine, self.labelled = FakeEngine(tokenizer), FakeEngine(tokenizer)
        self.translator = FakeTranslator()
        scores = {"good": (-1.0, 1.0), "bad": (1.5, -1.5), "dull": (0.5, -0.5)}
        classifier = with_function(bag_of_words, table_of(scores))
        plain, steered = fake_model(tokenizer), fake_model(tokenizer)
        steered.labels, steered.num_labels = LABELS, 4
        translator: Any = type("Model", (), {"attention_fn": print, "tokenizer": tokenizer})()
        self.models = Models()
        for name, task, model, engine in (
            ("demo", "language_model", plain, self.engine),
            ("moods", "conditional_language_model", steered, self.labelled),
            ("reviews", "classifier", classifier, ClassifierService(classifier)),
            ("german", "seq2seq", translator, self.translator),
        ):
            served = ServedModel(name, task, model, engine=engine)
            self.models.add(replace(served, fingerprint="f" * 16))

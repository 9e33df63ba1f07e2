"""A classifier of random parameters behind the HTTP service, and a service that does nothing."""

import json
from typing import Any

import jax
import numpy as np

from benchmarks.load_client import NAME
from benchmarks.served_model import listen
from jaxgen.config import ClassifierConfig, ClassifierExperiment, LabelledData
from jaxgen.data.tokenizers import PAD
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.serving.app import create_app
from jaxgen.serving.classifying import ClassifierService
from jaxgen.serving.models import Models, ServedModel
from jaxgen.serving.options import ServeOptions
from jaxgen.tasks.classifier import init_shapes, load

ANSWER = b'{"object":"list"}'


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads a request and answers it with always the same."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


class ServedClassifier:
    """The contestant: both services, each on a port of its own.

    Args:
        words: of its vocabulary.
        embedding_size: of its words.
        hidden_size: units a direction.
        max_length: words of a text that it reads.
    """

    def __init__(self, words: list[str], embedding_size: int, hidden_size: int, max_length: int):
        experiment = ClassifierExperiment(
            data=LabelledData(lowercase=True),
            model=ClassifierConfig(
                embedding_size=embedding_size, hidden_size=hidden_size, pooling=("mean", "max")
            ),
        )
        tokens = experiment.tokenizer.model_copy(update={"min_frequency": 1})
        tokenizer = build_tokenizer(tokens, [" ".join(words)], specials=(PAD,))
        classes = {"labels": ["negative", "positive"], "multi_label": False, "counts": [1, 1]}
        files = {
            "tokenizer.json": tokenizer.backend.to_str(),
            "classes.json": json.dumps({**classes, "max_length": max_length}),
        }
        random, shapes = np.random.default_rng(0), init_shapes(experiment, files)
        params = jax.tree.map(lambda x: random.normal(0, 0.1, x.shape).astype(np.float32), shapes)
        model = load(experiment, files, params)
        served = ServedModel(NAME, "classifier", model, engine=ClassifierService(model))
        models = Models()
        models.add(served)
        self.servers = [
            listen(create_app(models, ServeOptions()), lambda: served.is_ready),
            listen(bare),
        ]

    def addresses(self) -> list[str]:
        """Of the service, and of the one that does nothing."""
        return [address for _, address in self.servers]

    def stop(self) -> None:
        for server, _ in self.servers:
            server.should_exit = True

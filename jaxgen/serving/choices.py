"""The choices of a completion: from chunks of an engine to pieces as OpenAI's API sends them."""

from collections.abc import Sequence
from typing import Any

from jaxgen.serving.requests import Chunk, TokenScores
from jaxgen.serving.token_texts import TokenTexts, as_json

LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


class ChoiceWriter:
    """One choice, piece by piece.

    Attributes:
        num_tokens: tokens written so far.
        total_logprob: of these, in nats; where log-probabilities were asked for.
    """

    def __init__(
        self,
        tokenizer: Any,
        index: int,
        prompt: Sequence[int],
        context: Sequence[int],
        *,
        logprobs: bool,
        echo: bool,
        continued: bool = False,
    ):
        """Begin a choice.

        Args:
            tokenizer: of the model.
            index: of the choice.
            prompt: its token ids.
            context: token ids before the prompt, which are no part of the text.
            logprobs: whether the pieces hold log-probabilities.
            echo: whether the first piece begins with the prompt.
            continued: whether something the client knows of stands before the prompt.
        """
        self._index, self._prompt, self._continued = index, prompt, continued
        self._logprobs, self._echo = logprobs, echo
        self.num_tokens, self.total_logprob = 0, 0.0
        if echo:
            decoder = tokenizer.decoder()
            decoder.push(context)
            self._prompt_text = decoder.push(prompt)
        if logprobs:
            self._texts = TokenTexts(tokenizer, context)
            if not echo:
                for token in prompt:
                    self._texts.push(token)

    def piece(self, chunk: Chunk) -> dict[str, Any]:
        """What a chunk adds."""
        text = chunk.text
        lists: dict[str, list[Any]] | None = None
        if self._logprobs:
            lists = {name: [] for name in LISTS}
            if self._echo:
                self._add(lists, self._prompt, *self._scores_of_prompt(chunk.prompt))
            self._add(lists, chunk.tokens, chunk.logprobs, chunk.top)
        if self._echo:
            text, self._echo = self._prompt_text + text, False
        self.num_tokens += len(chunk.tokens)
        self.total_logprob += sum(chunk.logprobs)
        return {
            "text": text,
            "index": self._index,
            "logprobs": lists,
            "finish_reason": chunk.finish_reason,
        }

    def mean_logprob(self) -> float:
        """Nats per token, what `best_of` ranks by."""
        return self.total_logprob / self.num_tokens if self.num_tokens else float("-inf")

    def _scores_of_prompt(self, scores: TokenScores | None) -> tuple[list, list]:
        """Log-probabilities of the prompt's tokens; the first token of a text has none."""
        if scores is None:  # an empty prompt
            return [], []
        logprobs, top = list(scores.logprobs), list(scores.top)
        if logprobs and not self._continued:
            logprobs[0], top[:1] = None, [None]
        return logprobs, top

    def _add(
        self,
        lists: dict[str, list[Any]],
        tokens: Sequence[int],
        logprobs: Sequence[float | None],
        top: Sequence[dict[int, float] | None],
    ) -> None:
        """Put tokens at the ends of the lists."""
        texts = self._texts
        for place, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            likeliest = None
            if logprob is not None:
                others = (top[place] if place < len(top) else None) or {}
                likeliest = texts.likeliest({**others, token: logprob})
                logprob = as_json(logprob)
            row = (texts.text(token), logprob, likeliest, texts.length)
            for name, value in zip(LISTS, row, strict=True):
                lists[name].append(value)
            texts.push(token)


def joined(pieces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The pieces of a choice as one."""
    whole = dict(pieces[-1])
    whole["text"] = "".join(piece["text"] for piece in pieces)
    if whole["logprobs"] is not None:
        whole["logprobs"] = {
            name: [value for piece in pieces for value in piece["logprobs"][name]] for name in LISTS
        }
    return whole

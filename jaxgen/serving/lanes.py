"""`Lane`: slots of one kind of text, and the dispatches that read and generate in them."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxgen.generation.carry import PromptState
from jaxgen.generation.runner import Runner
from jaxgen.serving import slots as programs
from jaxgen.serving.output import Piece, likeliest, pieces
from jaxgen.serving.requests import MOST_LOGPROBS
from jaxgen.serving.settings import Asked, joined_rows, stacked
from jaxgen.serving.texts import Dispatch, Event, Text

_FEW = 8
"""Texts that join, or are read, in one dispatch, at most; one by itself has its own programs."""
_SEGMENTS = (16, 128)
"""Padded lengths of what is read in one dispatch."""
_SHARE = 0.2
"""Of a new measurement in the estimate of a time."""


class Lane:
    """Slots for texts of one kind.

    Dispatches may be started before the results of earlier ones have come: what a text will have
    is known but for its end, after which its row stays as it is.
    """

    def __init__(self, runner: Runner, example: Asked, size: int, vocab_size: int):
        """`size` slots for texts like an example; nothing is compiled yet."""
        self.kind, self.size = example.kind, size
        self._runner, self._example = runner, example
        self._slots: programs.Slots | None = None
        self._free = list(range(size))[::-1]
        self.texts: list[Text] = []
        """Those in slots, in the order in which they came."""
        self._batches = sorted({min(4**power, size) for power in range(size.bit_length())})
        """Rows of the programs that generate: 1, 4, 16, ..., all."""
        self._most = min(MOST_LOGPROBS, vocab_size)
        fewest, every = self.kind.fewest, self.kind.fields
        several = (fewest, None), (every, None), (every, self._most)
        self._programs = [programs.Program(*one) for one in dict.fromkeys(several)]
        """Those that generate, the cheapest first."""
        self._seconds: dict[Any, float] = defaultdict(lambda: 0.005)
        """Estimates: of a program that reads, and of a step of one that generates."""
        self.ready = False
        self.failure: BaseException | None = None
        """What ended the warm-up, if anything."""

    @property
    def free(self) -> int:
        """Slots without texts."""
        return len(self._free)

    def warm_up(self, everything: bool = True) -> None:
        """Make the slots, and compile and measure every program that a text may need."""
        one = self._joining([self._example], 1)
        model, params = self._runner.choosing, self._runner.params
        self._slots = programs.empty_slots(params, one, size=self.size, model=model)
        if everything:
            self._warm_programs()
            self._slots = programs.empty_slots(params, one, size=self.size, model=model)
        self.ready = True

    def _warm_programs(self) -> None:
        rows = np.zeros(1, np.int32)
        alone = programs.state_of(self._slots, rows, model=self._runner.choosing)
        after = jax.tree.map(np.asarray, alone)
        for count in (1, _FEW):
            rows = np.full(count, self.size, np.int32)
            self._write(rows, self._joining([self._example], count))
        self._write(rows[:1], self._joining([self._example], 1, [after]))
        for _ in range(3):  # the first time compiles; of the others the shorter counts
            for length in _SEGMENTS:
                for read in ((1, None), (_FEW, None), (_FEW, self._most)):
                    self._warm_read(length, *read)
            for count in self._batches:
                for program in self._programs:
                    self._warm_step(count, program)

    def _warm_read(self, length: int, count: int, number: int | None) -> None:
        started = time.perf_counter()
        tokens = np.zeros((count, length), np.int32)
        rows = np.arange(count, dtype=np.int32)
        self._read(rows, tokens, np.full(count, length, np.int32), number)
        jax.block_until_ready(self._slots)
        self._learn(("read", count, length, number), time.perf_counter() - started)

    def _warm_step(self, count: int, program: programs.Program) -> None:
        steps = 4
        started = time.perf_counter()
        self._step(np.arange(count, dtype=np.int32), steps, program)
        jax.block_until_ready(self._slots)
        self._learn(("step", count, program), (time.perf_counter() - started) / steps)

    def _learn(self, key: Any, seconds: float) -> None:
        self._seconds[key] = min(self._seconds.get(key, math.inf), seconds)

    def join(self, texts: Sequence[Text]) -> None:
        """Texts into free slots, of which there must be enough."""
        for continued in (False, True):
            some = [t for t in texts if (t.asked.generation.after is not None) == continued]
            most = 1 if continued else _FEW
            for first in range(0, len(some), most):
                self._join(some[first : first + most])
        self.texts += texts

    def _join(self, texts: Sequence[Text]) -> None:
        count = 1 if len(texts) == 1 else _FEW
        rows = np.full(count, self.size, np.int32)
        for place, text in enumerate(texts):
            text.row = row = self._free.pop()
            rows[place] = row
        states = [text.asked.generation.after for text in texts]
        after = [state for state in states if state is not None]
        self._write(rows, self._joining([text.asked for text in texts], count, after))

    def leave(self, text: Text) -> None:
        """The slot of a text is free again, if it has one."""
        if text.row is not None:
            self._free.append(text.row)
            self.texts.remove(text)
            text.row = None

    def launch(self, seconds: float) -> Dispatch | None:
        """Start to read and generate, for about so long; None where there is nothing to do."""
        dispatch = Dispatch(time.perf_counter(), 0.0)
        self._launch_read(dispatch, seconds)
        self._launch_step(dispatch, max(seconds - dispatch.estimate, seconds / 4))
        return dispatch if dispatch.keys or dispatch.ready else None

    def _launch_read(self, dispatch: Dispatch, seconds: float) -> None:
        texts = [text for text in self.texts if not text.is_read][:_FEW]
        if texts:
            number = self._most if any(text.scored for text in texts) else None
            count = 1 if len(texts) == 1 and number is None else _FEW
            longest = max(len(text.prompt) - text.read for text in texts)
            length = _SEGMENTS[0]
            if longest > length and self._seconds["read", count, _SEGMENTS[1], number] <= seconds:
                length = _SEGMENTS[1]
            tokens, lengths = np.zeros((count, length), np.int32), np.zeros(count, np.int32)
            rows = np.full(count, self.size, np.int32)
            for place, text in enumerate(texts):
                part = text.prompt[text.read : text.read + length]
                rows[place], lengths[place] = text.slot, len(part)
                tokens[place, : len(part)] = part
                text.read += len(part)
            dispatch.scored = self._read(rows, tokens, lengths, number)
            dispatch.reading = list(zip(texts, lengths.tolist(), strict=False))
            dispatch.keys.append(("read", count, length, number))
            dispatch.estimate += self._seconds["read", count, length, number]
        dispatch.ready = [text for text in self.texts if text.is_read and not text.limit]

    def _launch_step(self, dispatch: Dispatch, seconds: float) -> None:
        texts = [text for text in self.texts if text.is_read and text.begun < text.limit]
        if not texts:
            return
        count = next(size for size in self._batches if len(texts) <= size)
        asked = [text.asked.generation for text in texts]
        program = self._programs[0]
        if not all(text.asked.plain for text in texts):
            known = any(one.num_logprobs is not None for one in asked)
            program = self._programs[-1 if known else -2]
        left = [text.limit - text.begun for text in texts]
        steps = min(max(left), programs.LARGEST_STEP)
        # A state that is asked for is the one after the last token.
        exact = [n for n, one in zip(left, asked, strict=True) if one.return_state]
        steps = min([steps, *exact])
        one_step = self._seconds["step", count, program]
        steps = max(1, min(steps, int(seconds / one_step)))
        rows = np.full(count, self.size, np.int32)
        held = np.array([text.slot for text in texts], np.int32)
        if count == self.size:
            rows[held] = held
        else:
            rows[: len(held)] = held
        for text in texts:
            text.begun += steps
        dispatch.generating = texts
        dispatch.generated = self._step(rows, steps, program)
        dispatch.steps, dispatch.rows = steps, count
        dispatch.keys.append(("step", count, program))
        dispatch.estimate += one_step * steps

    def finish(self, dispatch: Dispatch) -> Iterator[Event]:
        """Wait for the results of a dispatch; texts that have all they need leave their slots."""
        if dispatch.generated is not None:
            lengths: Any = dispatch.generated.lengths  # its stub leaves `is_ready` out
            dispatch.waited_for = not lengths.is_ready()
        self._finish_read(dispatch)
        yield from self._finish_step(dispatch)
        for text in dispatch.ready:
            if not text.over and text.row is not None:
                state = self._state(text)
                self.leave(text)
                yield Event(text, None, True, state)

    def measure(self, dispatch: Dispatch, taken: float) -> None:
        """Correct the estimates of times by a dispatch that took so many seconds.

        Where nobody had to wait for it, it took no longer than that: the host was slower, and
        fewer steps a dispatch would make it slower still.
        """
        ratio = taken / max(dispatch.estimate, 1e-6)
        if not dispatch.waited_for:
            ratio = min(ratio, 1.0)
        for key in dispatch.keys:
            self._seconds[key] *= 1 + _SHARE * (min(ratio, 4.0) - 1)

    def _finish_read(self, dispatch: Dispatch) -> None:
        if dispatch.scored is None:
            return
        scored = jax.device_get(dispatch.scored)
        for row, (text, length) in enumerate(dispatch.reading):
            if text.scored:
                count = text.asked.generation.num_logprobs or 0
                top = likeliest(
                    scored.top_tokens[row, :length], scored.top_logprobs[row, :length], count
                )
                text.scores += zip(scored.logprobs[row, :length].tolist(), top, strict=True)
                if len(text.scores) == len(text.prompt):
                    text.output.prompt_scores = text.prompt_scores()

    def _finish_step(self, dispatch: Dispatch) -> Iterator[Event]:
        if dispatch.generated is None:
            return
        dispatch.generated = generated = jax.device_get(dispatch.generated)
        output = generated.output
        lines = pieces(output.tokens, generated.lengths, generated.finished, output.logprobs)
        whole = len(lines) == self.size
        for place, text in enumerate(dispatch.generating):
            if text.over or text.row is None or text.generated >= text.limit:
                continue  # it has all it needs since the dispatch was started
            row = text.row if whole else place
            piece = self._piece(text, lines[row], output, row)
            text.generated += len(piece.tokens)
            last = piece.finished or text.generated >= text.limit
            state = None
            if last:
                state = self._state(text)
                self.leave(text)
            yield Event(text, piece, last, state)

    def _piece(self, text: Text, piece: Piece, output: Any, row: int) -> Piece:
        """What a text gets of a row: no more tokens than asked for, and what it asked to know."""
        left = text.limit - text.generated
        tokens = piece.tokens[:left]
        if len(tokens) == left:  # whatever came after that is not the text's
            stopped = tokens[-1] in text.asked.sampling.stop_tokens
            piece = piece._replace(finished=stopped, broken=False)
        count = text.asked.generation.num_logprobs
        if count is None:
            return piece._replace(tokens=tokens, logprobs=[])
        some = slice(len(tokens))
        top = likeliest(output.top_tokens[row, some], output.top_logprobs[row, some], count)
        return piece._replace(tokens=tokens, logprobs=piece.logprobs[some], top=top)

    def _state(self, text: Text) -> PromptState | None:
        """The state of a text in its slot, where it is asked for."""
        if not text.asked.generation.return_state:
            return None
        rows = np.array([text.row], np.int32)
        state = programs.state_of(self._slots, rows, model=self._runner.choosing)
        found: PromptState = jax.tree.map(np.asarray, state)
        return found

    def _joining(
        self, asked: Sequence[Asked], count: int, after: Sequence[PromptState] = ()
    ) -> programs.Joining:
        """What texts begin with, padded to `count` rows."""
        conditions = [one.request.condition for one in asked]
        known = not after and conditions[0] is not None
        return programs.Joining(
            joined_rows(list(after), count) if after else None,
            joined_rows(conditions, count) if known else None,
            stacked([one.seed for one in asked], count),
            stacked([np.int32(one.generation.row) for one in asked], count),
            stacked([one.sampling for one in asked], count),
        )

    def _write(self, rows: Any, joining: programs.Joining) -> None:
        model = self._runner.choosing
        self._slots = programs.join(self._runner.params, self._slots, rows, joining, model=model)

    def _read(
        self, rows: Any, tokens: Any, lengths: Any, number: int | None
    ) -> programs.Scored | None:
        self._slots, scored = programs.read(
            self._runner.params,
            self._slots,
            rows,
            tokens,
            lengths,
            model=self._runner.choosing,
            num_logprobs=number,
        )
        return scored

    def _step(self, rows: Any, steps: int, program: programs.Program) -> programs.Generated:
        self._slots, generated = programs.step(
            self._runner.prepared,
            self._slots,
            rows,
            np.int32(steps),
            model=self._runner.choosing,
            program=program,
        )
        return generated

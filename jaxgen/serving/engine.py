"""`TextEngine`: one language model answering many requests at once, in a thread of its own.

The thread goes round: it takes what arrived, lets waiting texts into free slots, starts one short
dispatch behind the one that runs, turns the tokens of the one before that into text, and waits for
the results of the one that runs, so that the device always has work. A dispatch makes as many steps
as fit its time, so that whoever comes or goes waits no longer than two of them.

A text is a function of its request alone: settings that it lacks are there with values that do
nothing, and its randomness comes from its own key. What remains of the others is rounding: a matrix
product of one row and one of 64 may differ in the last bit, and with it, very rarely, a token that
was drawn within that bit.
"""

import asyncio
import threading
import time
from collections import deque
from copy import deepcopy
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation import programs
from jaxgen.generation.runner import Runner
from jaxgen.generation.text import TextModel
from jaxgen.serving.answers import Mail, TextAnswer
from jaxgen.serving.counters import Counters
from jaxgen.serving.lanes import Lane
from jaxgen.serving.output import Output
from jaxgen.serving.requests import Chunk, EngineError, FullError, Generation, StoppedError
from jaxgen.serving.settings import Asked, Kind, ask, ending_of
from jaxgen.serving.states import States
from jaxgen.serving.texts import Dispatch, Event, Text


@dataclass(frozen=True)
class EngineOptions:
    """How an engine works."""

    slots: int = 64
    """Texts that are generated side by side."""
    rare_slots: int = 8
    """The same of each kind of text that needs programs of its own, see `Kind`."""
    rare_kinds: int = 8
    """Kinds of texts with programs of their own, compiled when first asked for, at most."""
    dispatch_seconds: float = 0.015
    """What a dispatch is to take; at most 0.02 then in practice."""
    waiting_requests: int = 256
    """Accepted requests beyond those that fill the slots, at most."""
    waiting_tokens: int = 1 << 18
    """Tokens that all accepted requests may still read and generate, at most; a request that is
    alone is always accepted."""
    warm_up: bool = True
    """Compile all programs before the engine is ready, or each when it is first needed."""


class TextEngine:
    """The engine of a `TextModel`; see `jaxgen.serving.requests.Engine`.

    `submit` and the answers belong to an event loop; all else may be called from any thread.
    """

    def __init__(self, lm: TextModel, options: EngineOptions = EngineOptions()):
        """An engine that is not started; UserError for a model that cannot be batched."""
        self._lm, self._options = lm, options
        model = programs.Model(lm.step_fn, lm.prefill_fn, lm.initial_carry)
        self._runner = Runner(model, lm.params, lm.constraint)
        example = ask(lm, Generation((), 1))
        self._lanes = {Kind(): self._new_lane(example, options.slots)}
        self.states = States(self._runner, example.request.condition)
        self._mail: SimpleQueue[Text | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="jaxgen-engine", daemon=True)
        self._started = self._closed = False
        self._deadline: float | None = None
        self.failure: BaseException | None = None
        self._accepted: set[Text] = set()
        self._tokens_ahead = 0
        self._waiting: deque[Text] = deque()
        self._flying: list[tuple[Lane, Dispatch]] = []
        self._last_end = 0.0
        self._events: list[Event] = []
        self._answers = Mail()
        self._counters = Counters(slots=options.slots)
        self._rate = 1000.0
        self._ready = threading.Event()

    @property
    def ready(self) -> bool:
        """Whether everything is compiled and requests are answered."""
        return self._ready.is_set() and not self._closed

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until `ready`, or until the thread has failed; whether it is ready."""
        self._ready.wait(timeout)
        return self.ready

    def start(self) -> None:
        """Start the thread, which compiles and then answers; returns at once."""
        self._started = True
        self._thread.start()

    def check(self, generation: Generation) -> None:
        """UserError where `submit` would raise one; queues nothing."""
        self._ask(generation)

    def submit(self, generation: Generation) -> TextAnswer:
        """Queue a text; see `Engine.submit`."""
        asked = self._ask(generation)
        context = asked.request.context[0]
        output = Output(self._lm.tokenizer, context, generation, ending_of(self._lm))
        text = Text(
            asked,
            output,
            TextAnswer(lambda: self._cancel(text)),
            time.perf_counter(),
            asked.prompt,
            generation.max_new_tokens,
        )
        with self._lock:
            self._accept(text)
            self._mail.put(text)
        return text.answer

    def metrics(self) -> Counters:
        """Counters of now; a copy whose numbers stay as they are."""
        with self._lock:
            active = sum(len(lane.texts) for lane in list(self._lanes.values()))
            return replace(
                deepcopy(self._counters),
                active=active,
                waiting=max(len(self._accepted) - active, 0),
                tokens_ahead=self._tokens_ahead,
                tokens_per_second=self._rate,
            )

    async def stop(self, grace: float = 30.0) -> None:
        """Take no more requests, finish those in flight within `grace` seconds, refuse the rest."""
        await asyncio.to_thread(self.close, grace)

    def close(self, grace: float = 0.0) -> None:
        """`stop` for those without an event loop."""
        with self._lock:
            self._closed = True
            self._deadline = time.perf_counter() + grace
            self._mail.put(None)
        if self._started:
            self._thread.join()
        else:
            self._refuse_all()

    def _ask(self, generation: Generation) -> Asked:
        asked = ask(self._lm, generation)
        if generation.after is not None:
            self.states.check(generation.after, asked.kind.labels)
        return asked

    def _accept(self, text: Text) -> None:
        """Note a text as accepted; FullError or StoppedError where it cannot be."""
        if self._closed:
            self._counters.requests["stopped"] += 1
            raise StoppedError("the engine takes no more requests: it is being stopped")
        options, size = self._options, text.remaining
        requests = options.slots + options.waiting_requests
        beyond = self._tokens_ahead + size - options.waiting_tokens
        if len(self._accepted) >= requests or (self._accepted and beyond > 0):
            self._counters.requests["full"] += 1
            mean = self._tokens_ahead / max(len(self._accepted), 1)
            seconds = max(beyond, mean) / max(self._rate, 1.0)
            raise FullError(
                f"{len(self._accepted)} requests are in flight, with {self._tokens_ahead} tokens "
                f"ahead of them; at most {requests} and {options.waiting_tokens} may be",
                min(max(seconds, 1.0), 60.0),
            )
        self._accepted.add(text)
        self._tokens_ahead += size

    def _cancel(self, text: Text) -> None:
        """Called by the answer, in the thread of its loop."""
        text.over = True
        self._mail.put(text)

    def _run(self) -> None:
        """The thread."""
        try:
            self._lanes[Kind()].warm_up(self._options.warm_up)
            self._ready.set()
            while self._turn():
                pass
        except BaseException as error:  # whoever waits must hear of it, whatever it is
            self.failure = error
        finally:
            self._refuse_all()
            self._ready.set()

    def _turn(self) -> bool:
        """Once round; whether to go on."""
        self._take_mail()
        if self._closed:
            late = self._deadline is not None and time.perf_counter() > self._deadline
            if late or not self._accepted:
                return False
        self._admit()
        busy = [lane for lane in self._lanes.values() if lane.texts]
        seconds = self._options.dispatch_seconds / max(len(busy), 1)
        launched = [(lane, lane.launch(seconds)) for lane in busy]
        self._deliver()
        for lane, dispatch in self._flying:
            self._events += lane.finish(dispatch)
            now = time.perf_counter()
            seconds = now - max(dispatch.started, self._last_end)
            self._last_end = now
            lane.measure(dispatch, seconds)
            self._count(dispatch, seconds)
        self._flying = [(lane, dispatch) for lane, dispatch in launched if dispatch is not None]
        return True

    def _take_mail(self) -> None:
        """New and cancelled texts; waits for some where there is nothing else to do."""
        waiting_for_lane = bool(self._waiting)
        texts = any(lane.texts for lane in self._lanes.values())
        idle = not (self._events or self._flying or texts)
        try:
            while True:
                wait = idle and not (self._closed and not waiting_for_lane)
                text = self._mail.get(wait, 0.01 if waiting_for_lane or self._closed else None)
                idle = False
                if text is None:
                    continue
                if text.over:
                    self._end(text, "cancelled")
                else:
                    self._waiting.append(text)
        except Empty:
            pass

    def _admit(self) -> None:
        """Waiting texts into free slots, in the order in which they came."""
        joining: dict[Lane, list[Text]] = {}
        now = time.perf_counter()
        for text in list(self._waiting):
            lane = self._lane_of(text)
            if lane is None or not lane.ready or lane.free <= len(joining.get(lane, ())):
                continue
            self._waiting.remove(text)
            joining.setdefault(lane, []).append(text)
            if text.last_chunk is None:
                self._counters.queue_seconds.add(now - text.submitted)
        for lane, texts in joining.items():
            lane.join(texts)

    def _lane_of(self, text: Text) -> Lane | None:
        """The slots for a text; those of a rare kind are made when first asked for."""
        kind = text.asked.kind
        if kind not in self._lanes:
            if len(self._lanes) > self._options.rare_kinds:
                self._fail(text, _too_many_kinds(self._options.rare_kinds))
                return None
            self._lanes[kind] = lane = self._new_lane(text.asked, self._options.rare_slots)
            threading.Thread(
                target=_warm_up, args=(lane, self._options.warm_up), daemon=True
            ).start()
        lane = self._lanes[kind]
        if lane.failure is not None:
            error = EngineError("the programs for this text's settings could not be compiled")
            error.__cause__ = lane.failure
            self._fail(text, error)
            return None
        return lane

    def _new_lane(self, example: Asked, size: int) -> Lane:
        runner = self._runner.guided if example.kind.labels else self._runner
        return Lane(runner, example, size, self._lm.tokenizer.vocab_size)

    def _deliver(self) -> None:
        """The tokens of earlier dispatches as text, to whoever waits for it."""
        events, self._events = self._events, []
        for event in events:
            if event.text.over:
                continue
            try:
                self._handle(event)
            except UserError as error:
                self._fail(event.text, error)
        self._answers.send()

    def _handle(self, event: Event) -> None:
        text, output = event.text, event.text.output
        if event.piece is None:
            chunk = text.last_chunk or Chunk([], "", [], [], "length", output.prompt_scores)
            self._finish(text, chunk._replace(state=event.state))
            return
        if text.first_token is None:
            text.first_token = time.perf_counter()
            self._counters.first_token_seconds.add(text.first_token - text.submitted)
        output.push(event.piece, event.last)
        found = output.chunk()
        if found is None:
            return
        if found.finish_reason is None:
            self._answers.put(text.answer, found)
        elif text.asked.generation.return_state and output.ended_by_itself:
            self._read_anew(text, found)
        else:
            self._finish(text, found._replace(state=event.state))

    def _read_anew(self, text: Text, chunk: Chunk) -> None:
        """Read the prompt and the text for the state after it: the slot's own went beyond."""
        self._lanes[text.asked.kind].leave(text)
        spoken = np.array(text.output.spoken, np.int32)
        text.prompt = np.concatenate([text.asked.prompt, spoken])
        text.read = text.begun = text.generated = text.limit = 0
        text.last_chunk = chunk
        self._waiting.appendleft(text)

    def _finish(self, text: Text, chunk: Chunk) -> None:
        """A text's last chunk."""
        self._answers.put(text.answer, chunk)
        count = text.output.count
        if text.first_token is not None and count > 1:
            seconds = (time.perf_counter() - text.first_token) / (count - 1)
            self._counters.token_seconds.add(seconds, count - 1)
        self._end(text, str(chunk.finish_reason))

    def _fail(self, text: Text, error: BaseException) -> None:
        """A text that cannot be answered."""
        self._answers.put(text.answer, error)
        self._end(text, "stopped" if isinstance(error, StoppedError) else "error")

    def _end(self, text: Text, outcome: str) -> None:
        """Let go of a text, wherever it is."""
        text.over = True
        lane = self._lanes.get(text.asked.kind)
        if lane is not None:
            lane.leave(text)
        if text in self._waiting:
            self._waiting.remove(text)
        with self._lock:
            if text in self._accepted:
                self._accepted.remove(text)
                generation = text.asked.generation
                self._tokens_ahead -= len(text.asked.prompt) + generation.max_new_tokens
                self._counters.requests[outcome] += 1

    def _refuse_all(self) -> None:
        """Errors for all that wait; nothing is accepted any more."""
        with self._lock:
            self._closed = True
            texts = list(self._accepted)
        for text in texts:
            if self.failure is None:
                error = StoppedError("the engine was stopped before the text was finished")
            else:
                error = StoppedError(f"the engine failed: {type(self.failure).__name__}")
                error.__cause__ = self.failure
            self._fail(text, error)
        self._answers.send()

    def _count(self, dispatch: Dispatch, seconds: float) -> None:
        counters = self._counters
        read = sum(length for _, length in dispatch.reading)
        made = 0
        if dispatch.generated is not None:
            made = int(np.asarray(dispatch.generated.lengths).sum())
        counters.prompt_tokens += read
        counters.generated_tokens += made
        counters.dispatches += 1
        counters.dispatch_seconds.add(seconds)
        counters.slot_steps += dispatch.steps * dispatch.rows
        weight = min(seconds, 1.0)
        self._rate += weight * ((read + made) / max(seconds, 1e-6) - self._rate)


def _warm_up(lane: Lane, everything: bool) -> None:
    """Compile the programs of a rare kind, beside the work of the others."""
    try:
        lane.warm_up(everything)
    except BaseException as error:  # the engine's thread meets it
        lane.failure = error


def _too_many_kinds(most: int) -> UserError:
    return UserError(
        f"this server compiles programs for {most} kinds of rare settings at most, and has: "
        "`guidance` of several labels, `typical_p`, `no_repeat_ngram` and `top_k` of a large "
        "vocabulary; leave these out, or use those that were used before"
    )

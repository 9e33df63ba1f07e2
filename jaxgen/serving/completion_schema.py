"""Bodies of `POST /v1/completions`: OpenAI's fields, and jaxgen's own beside them."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from jaxgen.serving.requests import MOST_LOGPROBS

Prompt = str | list[int]
MOST_STOPS = 4
_SEED = 2**63


def _prompts(value: Any) -> list[Prompt]:
    """Each form of `prompt` as a list of texts and lists of token ids."""
    if value is None:
        return [""]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(type(token) is int for token in value):
            return [value]
        texts = all(isinstance(text, str) for text in value)
        tokens = all(
            isinstance(row, list) and row and all(type(token) is int for token in row)
            for row in value
        )
        if texts or tokens:
            return value
    raise ValueError(
        "`prompt` must be a text, a list of texts, a list of token ids or a list of such lists, "
        "none of them empty"
    )


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError("`stop` must be a text or a list of texts, none of them empty")
    if len(stops) > MOST_STOPS:
        raise ValueError(f"`stop` must hold at most {MOST_STOPS} texts, got {len(stops)}")
    return tuple(stops)


def _default(value: Any) -> BeforeValidator:
    """`null` in the place of a value is the default."""
    return BeforeValidator(lambda given: value if given is None else given)


Prompts = Annotated[
    list[Prompt],
    PlainValidator(
        _prompts, json_schema_input_type=str | list[str] | list[int] | list[list[int]] | None
    ),
]
Stops = Annotated[
    tuple[str, ...], PlainValidator(_stops, json_schema_input_type=str | list[str] | None)
]
Switch = Annotated[bool, _default(False)]


class Body(BaseModel):
    """What is sent: no unknown fields, no conversions, finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Body):
    """What a stream holds besides the text."""

    include_usage: Switch = Field(False, description="One more chunk at the end with `usage`.")


class Steering(Body):
    """What a model with labels writes about."""

    label: str | int | None = Field(
        None,
        description="Of a model with labels: a name or a number, `joy=0.7,fear=0.3` for several, "
        "`not:anger` to steer away.",
    )
    guidance: float | None = Field(
        None,
        ge=0,
        description="How strongly: 0 as without a label, 1 as trained, more exaggerates.",
    )


class CompletionRequest(Steering):
    """What is asked for; the fields down to `user` are those of OpenAI's API."""

    model: str = Field(description="One of those that `GET /v1/models` lists.")
    prompt: Prompts = Field(
        [""],
        description="Text, texts, token ids or lists of them; an empty one begins a text.",
    )
    max_tokens: Annotated[int, _default(16)] = Field(16, ge=0, description="Length at most.")
    n: Annotated[int, _default(1)] = Field(1, ge=1, description="Texts a prompt.")
    best_of: int | None = Field(
        None,
        ge=1,
        description="Generate so many texts a prompt and give the `n` of the highest "
        "log-probability per token. Not with `stream`.",
    )
    stop: Stops = Field((), description="End before the first of these, at most 4.")
    seed: int | None = Field(
        None,
        ge=-_SEED,
        lt=_SEED,
        description="One seed, one text: its lowest 32 bits count. Drawn if left out.",
    )
    temperature: Annotated[float, _default(1.0)] = Field(1.0, ge=0, description="0 is greedy.")
    top_p: Annotated[float, _default(1.0)] = Field(
        1.0, gt=0, le=1, description="Keep the likeliest tokens that hold this share."
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MOST_LOGPROBS,
        description="Log-probabilities of the tokens, and of so many likeliest at each place.",
    )
    echo: Switch = Field(False, description="Give the prompt back before the text.")
    stream: Switch = Field(False, description="Send the text as it is made, as events.")
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = Field(
        None, description="Taken from the logit of each token generated so far."
    )
    frequency_penalty: float | None = Field(
        None, description="Taken as many times as the token was generated so far."
    )
    logit_bias: dict[str, float] | None = Field(
        None, description="Not supported; see `banned_tokens`."
    )
    suffix: str | None = Field(None, description="Not supported.")
    user: str | None = Field(None, description="Ignored.")
    top_k: int | None = Field(None, ge=0, description="Keep so many likeliest tokens; 0 keeps all.")
    min_p: float | None = Field(
        None, ge=0, le=1, description="Keep tokens so many times as likely as the likeliest."
    )
    typical_p: float | None = Field(
        None, gt=0, le=1, description="Keep the tokens of typical surprise that hold this share."
    )
    repetition_penalty: float | None = Field(
        None, gt=0, description="Above 1 discourages tokens that the text has already."
    )
    no_repeat_ngram: int | None = Field(
        None, ge=0, description="Never generate so many tokens in a row twice."
    )
    min_new_tokens: int | None = Field(None, ge=0, description="Do not end before so many.")
    banned_tokens: list[int] | None = Field(None, description="Ids that are never generated.")
    allow_special: Switch = Field(False, description="Generate <unk>, <pad> and <bos> as well.")
    session: str | None = Field(
        None, description="Continue from this handle; `prompt` is read after it."
    )
    return_session: Switch = Field(
        False, description="Give each choice a handle to continue from, as `session`."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError(f"`best_of` must be at least `n`, {self.n}, got {self.best_of}")
        if self.stream and self.best_of is not None and self.best_of > 1:
            raise ValueError(
                "`best_of` ranks whole texts and cannot be streamed; leave out `stream` or it"
            )
        if self.stream_options is not None and not self.stream:
            raise ValueError("`stream_options` is for `stream`; set that to true, or leave it out")
        if self.suffix:
            raise ValueError("`suffix` is not supported: texts are written forwards; leave it out")
        if self.logit_bias:
            raise ValueError(
                "`logit_bias` is not supported; `banned_tokens` keeps tokens out, or leave it out"
            )
        return self

    @property
    def per_prompt(self) -> int:
        """Texts to generate for each prompt."""
        return self.best_of or self.n

    def sampling(self) -> dict[str, Any]:
        """Options of `TextModel.generate`; what changes nothing is left out."""
        values = {name: getattr(self, name) for name in _SAMPLING}
        kept = {name: value for name, value in values.items() if value not in _UNUSED[name]}
        return {"temperature": self.temperature, **kept}

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "demo", "prompt": "The ", "max_tokens": 60, "temperature": 0.5},
                {"model": "demo", "prompt": ["a", "b"], "n": 2, "seed": 1, "logprobs": 2},
                {"model": "demo", "prompt": "import ", "stream": True, "stop": "\n\n"},
            ]
        }
    )


_UNUSED: dict[str, tuple[Any, ...]] = {  # values that are as good as none
    "top_p": (None, 1.0),
    "top_k": (None, 0),
    "min_p": (None, 0.0),
    "typical_p": (None, 1.0),
    "repetition_penalty": (None, 1.0),
    "presence_penalty": (None, 0.0),
    "frequency_penalty": (None, 0.0),
    "no_repeat_ngram": (None, 0),
    "min_new_tokens": (None, 0),
    "banned_tokens": (None, []),
    "allow_special": (None, False),
    "label": (None,),
    "guidance": (None,),
}
_SAMPLING = tuple(_UNUSED)


class Logprobs(BaseModel):
    """Log-probabilities in nats, under the model itself."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int] = Field(description="Characters from the prompt's start.")


class Choice(BaseModel):
    """One text."""

    text: str
    index: int
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None
    session: str | None = Field(None, description="Where `return_session` asks for it.")


class Usage(BaseModel):
    """Tokens read and written, of all texts that were generated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """The answer, whole, or a part of it in a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None
    seed: int | None = Field(None, description="The seed that these texts were drawn with.")
    system_fingerprint: str | None = Field(None, description="Of the model's parameters.")
    warnings: list[str] = Field([], description="What is odd about the request.")
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "cmpl-0123456789abcdef",
                "object": "text_completion",
                "created": 1790000000,
                "model": "demo",
                "choices": [
                    {"text": "end.", "index": 0, "logprobs": None, "finish_reason": "length"}
                ],
                "usage": {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8},
                "seed": 1,
                "system_fingerprint": "0123456789abcdef",
                "warnings": [],
            }
        }
    )

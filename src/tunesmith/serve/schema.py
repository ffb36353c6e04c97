"""What requests hold and what answers are, as https://platform.openai.com/docs/api-reference has it.

A field that would change the text and is not understood is refused, never dropped in silence.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi.sse import format_sse_event
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tunesmith.generate.request import MAX_STOP_CHARACTERS, MAX_STOPS, MAX_TOP_LOGPROBS, TokenScore

MAX_NAME_CHARACTERS = 256
MAX_SEED = 2**63
LOWEST_LOGPROB = -9999.0
"""What OpenAI writes where a probability is too small to tell; JSON has no -inf."""
Zero = Annotated[float, Field(ge=0, le=0)]


def _encodable(text: str) -> str:
    text.encode()  # UnicodeEncodeError is a ValueError
    return text


Text = Annotated[str, AfterValidator(_encodable)]
"""Half a surrogate pair, which JSON can hold, is no text."""


class StreamOptions(BaseModel):
    """`stream_options` of OpenAI's API."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: bool = False


class _Asked(BaseModel):
    """Fields of both kinds of request."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    model: Annotated[Text, Field(max_length=MAX_NAME_CHARACTERS)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Unset: as the run is compared; so are temperature and top_p."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: (
        Annotated[Text, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
        | Annotated[
            list[Annotated[Text, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]], Field(max_length=MAX_STOPS)
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-MAX_SEED, lt=MAX_SEED)] | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _check_stream(self) -> _Asked:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionRequest(_Asked):
    """POST /v1/completions: text to continue, or the ids of it, start token included."""

    prompt: Text | TokenIds | Annotated[list[Text | TokenIds], Field(min_length=1)] = ""
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check_best_of(self) -> CompletionRequest:
        if self.best_of not in (None, self.n):
            raise ValueError("best_of: is not supported beyond n")
        return self

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if all(isinstance(part, int) for part in self.prompt):
            return [tuple(part for part in self.prompt if isinstance(part, int))]
        return [part if isinstance(part, str) else tuple(part) for part in self.prompt if not isinstance(part, int)]


class TextPart(BaseModel):
    """A part of a message's content; text alone."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    """A turn of a conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ResponseFormat(BaseModel):
    """`response_format` of OpenAI's API; text alone."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]


class ChatRequest(_Asked):
    """POST /v1/chat/completions: turns, asked in the model's chat template."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _check_logprobs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs true")
        return self


# ---------------------------------------------------------------------------------------------------------- answers


class Usage(BaseModel):
    """How many tokens a request took."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: dict[str, int] = Field(default_factory=dict)

    @classmethod
    def of(cls, prompt: int, completion: int, reused: int) -> Usage:
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            prompt_tokens_details={"cached_tokens": reused},
        )


class Envelope(BaseModel):
    """What stands around the choices of an answer, and of each piece of a stream."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str | None = None

    @classmethod
    def new(cls, *, chat: bool, stream: bool, model: str) -> Envelope:
        kind = ("chat.completion" + (".chunk" if stream else "")) if chat else "text_completion"
        name = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        return cls(id=name, object=kind, created=int(time.time()), model=model)

    def around(self, choices: list[dict[str, Any]], usage: Usage | None = None) -> dict[str, Any]:
        return {**self.model_dump(), "choices": choices, "usage": usage.model_dump() if usage else None}


def error_body(message: str, kind: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def chat_logprobs(scores: tuple[TokenScore, ...]) -> dict[str, Any]:
    """`logprobs` of a chat choice, as OpenAI's API writes them."""
    return {
        "content": [{**_token(score), "top_logprobs": [_token(top) for top in score.top]} for score in scores],
        "refusal": None,
    }


def completion_logprobs(scores: tuple[TokenScore, ...], offset: int) -> dict[str, Any]:
    """offset: characters that stand before the first token."""
    offsets = []
    for score in scores:
        offsets.append(offset)
        offset += len(score.text)
    return {
        "tokens": [score.text for score in scores],
        "token_logprobs": [_told(score.logprob) for score in scores],
        "top_logprobs": [{top.text: _told(top.logprob) for top in score.top} for score in scores],
        "text_offset": offsets,
    }


def _token(score: TokenScore) -> dict[str, Any]:
    whole = "\ufffd" not in score.text  # a part of a character has bytes that its text does not tell
    return {
        "token": score.text,
        "logprob": _told(score.logprob),
        "bytes": list(score.text.encode("utf-8", "replace")) if whole else None,
    }


def _told(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB)


def sse(value: Mapping[str, Any]) -> bytes:
    """A server-sent event that holds `value`."""
    return bytes(format_sse_event(data_str=json.dumps(value, ensure_ascii=False)))

"""The routes: OpenAI's API, /health, /metrics, and the playground."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from tunesmith import __version__
from tunesmith.data.rows.turns import Turn
from tunesmith.data.tokens.encode import chat_prompt
from tunesmith.errors import ModelError, TunesmithError
from tunesmith.generate.request import Busy, EngineClosed, Request
from tunesmith.redact import redact
from tunesmith.serve.answers import Broken, Gone, Texts, TooSlow, streamed_answer, whole_answer
from tunesmith.serve.playground import Playground
from tunesmith.serve.schema import ChatRequest, CompletionRequest, Envelope, error_body
from tunesmith.serve.service import Service, UnknownModel

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": description}
    for status, description in {
        400: "The request makes no sense, or asks for what is not supported.",
        401: "A key is needed.",
        403: "A page of another origin asked.",
        404: "No such model or path.",
        408: "The body or the answer did not come in time.",
        413: "The body is too large.",
        429: "Too many texts wait.",
        503: "Too much is open, or the server is closing.",
    }.items()
}
_STATUS: tuple[tuple[type[TunesmithError], int, str, str | None], ...] = (
    (UnknownModel, 404, "invalid_request_error", "model_not_found"),
    (Busy, 429, "rate_limit_error", "rate_limit_exceeded"),
    (EngineClosed, 503, "server_error", None),
    (TooSlow, 408, "server_error", "timeout"),
    (Broken, 500, "server_error", None),
    (ModelError, 400, "invalid_request_error", "context_length_exceeded"),
    (TunesmithError, 400, "invalid_request_error", None),
)


def build_app(service: Service, playground: Playground) -> FastAPI:
    """The app around a service whose engine runs."""
    app = FastAPI(
        title="tunesmith",
        version=__version__,
        summary="A fine-tuned model and its base, as OpenAI's API has it.",
        docs_url=None,
        redoc_url=None,
        responses=REFUSALS,
    )
    service.metrics.follow(service.speakers.engine)
    _add_errors(app)
    _add_models(app, service)
    _add_texts(app, service)
    playground.add_to(app)
    return app


def _add_models(app: FastAPI, service: Service) -> None:
    created = int(time.time())

    def model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": created, "owned_by": "tunesmith"}

    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [model(name) for name in service.names]}

    async def get_model(name: str) -> dict[str, Any]:
        service.voice(name)
        return model(name)

    async def health() -> dict[str, str]:
        return {"status": "ok"}

    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    app.add_api_route("/v1/models", list_models)
    app.add_api_route("/v1/models/{name:path}", get_model)
    app.add_api_route("/health", health)
    app.add_api_route("/metrics", metrics, response_class=Response)


def _add_texts(app: FastAPI, service: Service) -> None:
    async def complete(asked: CompletionRequest, http: HttpRequest) -> Response | dict[str, Any]:
        decoding = service.decoding(asked.max_tokens, asked.temperature, asked.top_p)
        voice = service.voice(asked.model)
        one = Request("", decoding, service.seed(asked.seed), voice, 0, asked.stops, asked.logprobs)
        prompts = [(prompt, number) for prompt in asked.prompts for number in range(asked.n)]
        texts = Texts(service, service.requests(prompts, one))
        return await _answer(texts, asked, http)

    async def chat(asked: ChatRequest, http: HttpRequest) -> Response | dict[str, Any]:
        most = asked.max_completion_tokens if asked.max_tokens is None else asked.max_tokens
        decoding = service.decoding(most, asked.temperature, asked.top_p)
        voice = service.voice(asked.model)
        template = service.speakers.chats[voice]
        if template is None:
            raise TunesmithError(
                f"The model {asked.model!r} has no chat template: it continues text. Use /v1/completions."
            )
        turns = [Turn({"role": message.role, "content": message.text}) for message in asked.messages]
        top = (asked.top_logprobs or 0) if asked.logprobs else None
        ids = tuple(chat_prompt(template, turns))
        one = Request(ids, decoding, service.seed(asked.seed), voice, 0, asked.stops, top)
        texts = Texts(service, service.requests([(ids, number) for number in range(asked.n)], one))
        return await _answer(texts, asked, http)

    app.add_api_route("/v1/completions", complete, methods=["POST"], response_model=None)
    app.add_api_route("/v1/chat/completions", chat, methods=["POST"], response_model=None)


async def _answer(texts: Texts, asked: ChatRequest | CompletionRequest, http: HttpRequest) -> Response | dict[str, Any]:
    chat = isinstance(asked, ChatRequest)
    envelope = Envelope.new(chat=chat, stream=asked.stream, model=asked.model)
    if asked.stream:
        return EventSourceResponse(streamed_answer(texts, envelope, chat=chat, usage=asked.wants_usage))
    try:
        await texts.all(http)
    except Gone:
        return Response(status_code=499)  # nobody reads it
    return whole_answer(texts, envelope, chat=chat)


def _add_errors(app: FastAPI) -> None:
    async def refused(_: HttpRequest, error: TunesmithError) -> JSONResponse:
        status, kind, code = next((s, k, c) for known, s, k, c in _STATUS if isinstance(error, known))
        headers = {"retry-after": "1"} if status in (429, 503) else None
        return JSONResponse(error_body(redact(str(error)), kind, code), status, headers)

    async def invalid(_: HttpRequest, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query", "path"))
        told = f"{place}: {problem['msg']}." if place else f"{problem['msg']}."
        return JSONResponse(error_body(told[:500], "invalid_request_error", None, place[:200] or None), 400)

    async def failed(http: HttpRequest, error: HTTPException) -> JSONResponse:
        told = f"{http.method} {http.url.path[:100]}: {error.detail}."
        return JSONResponse(error_body(told, "invalid_request_error", None), error.status_code, error.headers)

    async def broken(_http: HttpRequest, _error: Exception) -> JSONResponse:
        told = "Something failed inside; the server's own output says what."
        return JSONResponse(error_body(told, "server_error", None), 500)

    app.add_exception_handler(Exception, broken)
    app.add_exception_handler(TunesmithError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, failed)

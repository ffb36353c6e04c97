"""What the page asks for beside OpenAI's API: itself, what it may offer, training rows beside texts, the blind test."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import FileResponse, HTMLResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from tunesmith.errors import RunError
from tunesmith.generate.request import Request
from tunesmith.generate.voices import BASE, TUNED
from tunesmith.redact import redact
from tunesmith.run.artefacts import NamedRow, Wrote
from tunesmith.run.directory import REPORT
from tunesmith.serve.answers import Gone, Texts
from tunesmith.serve.rows import Rows
from tunesmith.serve.schema import Text
from tunesmith.serve.service import Service, is_pair
from tunesmith.serve.votes import Ballot, Choice, Side, Standing

STATIC = Path(__file__).parent / "static"
PAGE = "index.html"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_REPORT_POLICY = re.compile(r"<meta[^>]*http-equiv=\"Content-Security-Policy\"[^>]*content=\"([^\"<>]{1,500})\"")
MAX_CHARACTERS = 100_000


class About(BaseModel):
    """What the page shows and offers."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    models: list[str]
    """tuned and base, or one alone."""
    asks_in_turns: bool
    """Prompts are a user's turn, for a run that was tuned on conversations."""
    can_chat: bool
    prompts: list[str]
    max_new_tokens: int
    most_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    has_report: bool
    has_rows: bool
    """Training rows may be had: a run, not a model alone."""
    has_blind_test: bool
    notes: list[str]


class Openings(BaseModel):
    """How held-out rows begin; `why` there are none."""

    openings: list[str]
    why: str | None


class RowsAsked(BaseModel):
    """Texts whose nearest training rows are asked for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    texts: Annotated[list[Annotated[Text, Field(max_length=MAX_CHARACTERS)]], Field(min_length=1, max_length=8)]


class Beside(BaseModel):
    """What one text shares with the training rows. copied: [start, end) characters."""

    copied: list[tuple[int, int]]
    copied_share: float
    longest_copy: int
    copied_from: NamedRow | None
    nearest: NamedRow | None

    @classmethod
    def of(cls, wrote: Wrote) -> Beside:
        return cls(
            copied=_in_utf16(wrote.text, wrote.copied),
            copied_share=wrote.copied_share,
            longest_copy=wrote.longest_copy,
            copied_from=wrote.copied_from,
            nearest=wrote.nearest,
        )


class RowsFound(BaseModel):
    """The nearest training row of each text, or why there are none."""

    rows: list[Beside]
    why: str | None


class PairAsked(BaseModel):
    """A prompt that both models are to answer unnamed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[Text, Field(max_length=MAX_CHARACTERS)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None


class PairOffered(BaseModel):
    """Two answers in an order drawn at random."""

    name: str
    a: str
    b: str


class VoteAsked(BaseModel):
    """Which answer of a pair was chosen."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(max_length=64)]
    choice: Choice


class VoteKept(BaseModel):
    """Which side was the tuned model's, and how the votes stand."""

    tuned: Side
    standing: Standing


class Playground:
    """The page of one server. `rows` and `ballot` are those of a run with a tuned model and its base."""

    def __init__(self, service: Service, rows: Rows | None = None) -> None:
        self.service, self.rows = service, rows
        can_vote = service.run_dir is not None and is_pair(service)
        self.ballot = Ballot(service.run_dir) if can_vote and service.run_dir is not None else None
        self._files = {path.name: path for path in STATIC.iterdir() if path.suffix in KINDS}

    def add_to(self, app: FastAPI) -> None:
        """Its routes."""
        app.add_api_route("/", self.page, include_in_schema=False)
        app.add_api_route("/static/{name}", self.static, include_in_schema=False)
        app.add_api_route("/report", self.report, include_in_schema=False)
        app.add_api_route("/playground/about", self.about)
        app.add_api_route("/playground/openings", self.openings)
        app.add_api_route("/playground/rows", self.beside, methods=["POST"])
        app.add_api_route("/playground/standing", self.standing)
        app.add_api_route("/playground/pairs", self.pair, methods=["POST"], response_model=PairOffered)
        app.add_api_route("/playground/votes", self.vote, methods=["POST"])

    async def page(self) -> Response:
        return self.static_file(PAGE)

    async def static(self, name: str) -> Response:
        return self.static_file(name)

    def static_file(self, name: str) -> Response:
        """A file of the page, by a name that was listed when the server began."""
        path = self._files.get(name)
        if path is None:
            raise HTTPException(404, "Not Found")
        return FileResponse(path, media_type=KINDS[path.suffix], headers={"content-security-policy": POLICY})

    async def report(self) -> Response:
        run_dir = self.service.run_dir
        if run_dir is None or not run_dir.has(REPORT):
            raise HTTPException(404, "No report: `tunesmith report RUN` writes it")
        text = await asyncio.to_thread(run_dir.file(REPORT).read_text, encoding="utf-8", errors="replace")
        found = _REPORT_POLICY.search(text)
        headers = {"content-security-policy": found[1].replace("&#39;", "'")} if found else {}
        return HTMLResponse(text, headers=headers)

    async def about(self) -> About:
        service, asked = self.service, self.service.defaults
        return About(
            name=service.name,
            models=[voice for voice in (TUNED, BASE) if voice in service.speakers.chats],
            asks_in_turns=service.speakers.asks_in_turns,
            can_chat=all(chat is not None for chat in service.speakers.chats.values()),
            prompts=[redact(prompt) for prompt in asked.prompts] if service.run_dir is not None else [],
            max_new_tokens=min(asked.max_new_tokens, service.limits.max_new_tokens),
            most_new_tokens=min(service.limits.max_new_tokens, 1024),
            temperature=asked.temperature,
            top_p=asked.top_p,
            seed=asked.seed,
            has_report=service.run_dir is not None and service.run_dir.has(REPORT),
            has_rows=self.rows is not None,
            has_blind_test=self.ballot is not None,
            notes=[redact(note) for note in service.speakers.notes],
        )

    async def openings(self) -> Openings:
        if self.rows is None:
            return Openings(openings=[], why=None)
        await asyncio.to_thread(self.rows.wait)
        return Openings(openings=self.rows.openings, why=self.rows.why)

    async def beside(self, asked: RowsAsked) -> RowsFound:
        if self.rows is None:
            return RowsFound(rows=[], why="A model alone is served, and no run with its data.")
        found = await asyncio.to_thread(self.rows.look_up, asked.texts)
        return RowsFound(rows=[Beside.of(wrote) for wrote in found], why=self.rows.why)

    async def pair(self, asked: PairAsked, http: HttpRequest) -> PairOffered | Response:
        """What both models write with the same seed, in random order, under a name to vote with."""
        ballot, service = self._ballot(), self.service
        decoding = service.decoding(asked.max_tokens, asked.temperature, asked.top_p)
        seed = service.seed(asked.seed)
        requests = [
            Request(service.speakers.prompt(asked.prompt, voice), decoding, seed, voice) for voice in (TUNED, BASE)
        ]
        texts = Texts(service, requests)
        try:
            tuned, base = await texts.all(http)
        except Gone:
            return Response(status_code=499)  # nobody reads it
        name, pair = ballot.offer(asked.prompt, tuned.text, base.text, seed, decoding)
        return PairOffered(name=name, a=pair.a, b=pair.b)

    async def vote(self, asked: VoteAsked) -> VoteKept:
        ballot = self._ballot()
        pair = await asyncio.to_thread(ballot.vote, asked.name, asked.choice)
        return VoteKept(tuned=pair.tuned, standing=await asyncio.to_thread(ballot.standing))

    async def standing(self) -> Standing:
        return await asyncio.to_thread(self._ballot().standing)

    def _ballot(self) -> Ballot:
        if self.ballot is None:
            raise RunError("A blind test needs a run with a tuned model and its base.")
        return self.ballot


def _in_utf16(text: str, spans: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """Spans of characters as a browser counts them."""
    length = partial(_utf16_length, text)
    return [(length(start), length(end)) for start, end in spans]


def _utf16_length(text: str, end: int) -> int:
    return end + sum(ord(letter) > 0xFFFF for letter in text[:end])

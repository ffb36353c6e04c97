"""The engine writes what plain transformers writes, alone and among others, whoever joins or leaves meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.errors import ModelError, TunesmithError
from tunesmith.generate.engine import Engine
from tunesmith.generate.lane import Lane
from tunesmith.generate.request import Busy, EngineClosed, Piece, Request, Ticket, Voice
from tunesmith.generate.text import Decoding, generate
from tunesmith.models.load import load_for_generation
from tunesmith.models.tokenizer import TextTokenizer

PROMPTS = ["", "One fine morning", "A boy", "A boy and a girl who live by the sea and know nothing of the war", "x"]
SAMPLED = Decoding(24, temperature=0.8, top_p=0.9)
TIE = 1e-4


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_gpt_neo", "tiny_gpt2", "tiny_sliding"])
def loaded(request: pytest.FixtureRequest) -> tuple[Any, TextTokenizer]:
    return load_for_generation(str(request.getfixturevalue(request.param)), device="cpu")


@pytest.fixture
def llama(tiny_llama: Path) -> tuple[Any, TextTokenizer]:
    return load_for_generation(str(tiny_llama), device="cpu")


@pytest.fixture
def engine(llama: tuple[Any, TextTokenizer]) -> Iterator[Engine]:
    with Engine([Lane(llama[0], [Voice("tuned", llama[1])])]) as engine:
        yield engine


def lane_of(loaded: tuple[Any, TextTokenizer], **options: Any) -> Lane:
    return Lane(loaded[0], [Voice("tuned", loaded[1])], **options)


class Collected:
    """A ticket and all that was delivered for it."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self.pieces: list[Piece] = []
        self.ticket = Ticket(request, engine.ids_of(request), self.pieces.append)

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def is_done(self) -> bool:
        return bool(self.pieces) and self.pieces[-1].is_last


def collect(engine: Engine, *requests: Request) -> list[Collected]:
    return [Collected(engine, request) for request in requests]


def check_greedy(model: Any, ids: list[int], new_ids: list[int]) -> None:
    """Each token is the likeliest by one plain forward pass over all before it, or tied with it."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*ids, *new_ids]])).logits[0, len(ids) - 1 : -1]
    best = logits.max(-1).values
    chosen = logits[torch.arange(len(new_ids)), torch.tensor(new_ids, dtype=torch.int64)]
    assert (best - chosen < TIE).all()


# ---------------------------------------------------------------------------------------------- equal to plain loops


def test_greedy_text_is_that_of_plain_transformers_alone_and_among_others(loaded: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = loaded
    lane = lane_of(loaded)
    engine = Engine([lane])
    some = [Request(prompt, Decoding(30, temperature=0), 7) for prompt in PROMPTS * 4]
    rows = collect(engine, *some)
    lane.admit([one.ticket for one in rows[:5]])
    kept = {id(row.ticket): row for row in lane.rows}
    for one in rows[5:]:
        lane.step()
        lane.admit([one.ticket])
        kept |= {id(row.ticket): row for row in lane.rows}
    while lane.rows:
        lane.step()
    assert all(one.is_done for one in rows)
    written = [kept[id(one.ticket)].new_ids if id(one.ticket) in kept else [] for one in rows]
    assert sum(map(len, written)) > 200
    for one, new_ids in zip(rows, written, strict=True):
        check_greedy(model, one.ticket.ids, new_ids)
    for one, new_ids in zip(rows[:5], written, strict=False):
        plain = model.generate(
            input_ids=torch.tensor([one.ticket.ids]), do_sample=False, max_new_tokens=30, pad_token_id=tokenizer.pad_id
        )[0, len(one.ticket.ids) :].tolist()
        assert new_ids == [token for token in plain if token not in tokenizer.stop_ids]


def test_sampled_texts_are_those_of_generate_whatever_stands_beside(loaded: tuple[Any, TextTokenizer]) -> None:
    prompts = [*PROMPTS, "A boy"]
    expected = generate(*loaded, prompts, max_new_tokens=24, temperature=0.8, top_p=0.9, seed=7)
    requests = [Request(prompt, SAMPLED, 7, occurrence=prompts[:n].count(prompt)) for n, prompt in enumerate(prompts)]
    with Engine([lane_of(loaded)]) as engine:
        assert engine.write(requests) == expected
        others = [Request(prompt, Decoding(9, 1.3), number) for number, prompt in enumerate(PROMPTS * 3)]
        mixed = [*others, *requests]
        random.Random(3).shuffle(mixed)
        found = dict(zip(map(id, mixed), engine.write(mixed), strict=True))
        assert [found[id(request)] for request in requests] == expected


def test_one_row_at_a_time_where_memory_cannot_be_joined(
    llama: tuple[Any, TextTokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(*llama, PROMPTS, max_new_tokens=24, temperature=0.8, top_p=0.9, seed=7)
    monkeypatch.setattr("tunesmith.generate.lane.num_joinable_layers", lambda model: None)
    lane = lane_of(llama)
    assert lane.max_rows == 1
    with Engine([lane]) as engine:
        assert engine.write([Request(prompt, SAMPLED, 7) for prompt in PROMPTS]) == expected


# ------------------------------------------------------------------------------------------------------- beginnings


def test_a_shared_beginning_is_read_once_and_changes_nothing(loaded: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = loaded
    beginning = "A boy and a girl who live by the sea and know nothing of the war that comes"
    prompts = [beginning, f"{beginning} nearer", beginning, f"{beginning} every night, when", beginning]
    expected = generate(model, tokenizer, prompts, max_new_tokens=24, temperature=0.8, top_p=0.9, seed=7)
    fed: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    lane = lane_of(loaded)
    engine = Engine([lane])
    requests = [Request(p, SAMPLED, 7, occurrence=prompts[:n].count(p)) for n, p in enumerate(prompts)]
    rows = collect(engine, *requests)
    for one in rows:
        lane.admit([one.ticket])
    read = sum(fed)
    while lane.rows:
        lane.step()
    handle.remove()
    assert [one.text for one in rows] == [generation.text for generation in expected]
    longest = len(rows[3].ticket.ids)
    assert read < longest + 2 * 4 + 12
    assert rows[2].ticket.num_reused == len(rows[2].ticket.ids) - 1


def test_equal_prompts_that_come_together_are_read_once(llama: tuple[Any, TextTokenizer]) -> None:
    prompt = "A boy and a girl who live by the sea and know nothing of the war"
    expected = generate(*llama, [prompt] * 5, max_new_tokens=24, temperature=0.8, top_p=0.9, seed=7)
    lane = lane_of(llama)
    engine = Engine([lane])
    rows = collect(engine, *(Request(prompt, SAMPLED, 7, occurrence=n) for n in range(5)))
    lane.admit([one.ticket for one in rows])
    while lane.rows:
        lane.step()
    assert [one.text for one in rows] == [generation.text for generation in expected]
    assert [one.ticket.num_reused > 0 for one in rows] == [False, True, True, True, True]


def test_a_conversation_goes_on_from_what_was_written(engine: Engine) -> None:
    decoding = Decoding(20, temperature=0)
    first = Request(tuple(range(3, 60)), decoding, 7, top_logprobs=0)
    collected = collect(engine, first)[0]
    list(engine.stream(first))
    longer = (*range(3, 60), 5, 6, 7)
    pieces: list[Piece] = []
    ticket = engine.submit(Request(longer, decoding, 7), pieces.append)
    alone = engine.write([Request((*longer[:-1], 7), decoding, 7)])[0]
    assert collected.ticket.ids == list(range(3, 60))
    assert ticket.num_reused == 57
    assert "".join(piece.text for piece in pieces) == alone.text


# --------------------------------------------------------------------------------------------- base and adapter rows


def test_an_adapter_is_switched_by_row(lora_run: Path) -> None:
    from tunesmith.generate.voices import open_speakers

    speakers = open_speakers(str(lora_run), device="cpu")
    assert sorted(speakers.engine.voices) == ["base", "tuned"]
    with speakers.engine as engine:
        requests = [Request(p, SAMPLED, 7, voice) for p in PROMPTS for voice in ("tuned", "base")]
        found = engine.write(requests)
        alone = [engine.write(requests[side::2]) for side in (0, 1)]
    assert alone == [found[0::2], found[1::2]]
    merged = load_for_generation(str(lora_run), device="cpu")
    plain = load_for_generation(speakers.sources["base"].path, device="cpu")
    options: dict[str, Any] = {"max_new_tokens": 24, "temperature": 0.8, "top_p": 0.9, "seed": 7}
    assert found[0::2] == generate(*merged, PROMPTS, **options)
    assert found[1::2] == generate(*plain, PROMPTS, **options)
    assert found[0::2] != found[1::2]


def test_two_whole_models_where_all_weights_were_tuned(tiny_run: Any) -> None:
    from tunesmith.generate.voices import open_speakers

    speakers = open_speakers(str(tiny_run.path), device="cpu")
    with speakers.engine as engine:
        found = engine.write([Request(p, SAMPLED, 7, voice) for p in PROMPTS for voice in ("tuned", "base")])
    options: dict[str, Any] = {"max_new_tokens": 24, "temperature": 0.8, "top_p": 0.9, "seed": 7}
    assert found[0::2] == generate(*load_for_generation(str(tiny_run.path), device="cpu"), PROMPTS, **options)
    base = load_for_generation(tiny_run.recipe().model.name, device="cpu")
    assert found[1::2] == generate(*base, PROMPTS, **options)


# ---------------------------------------------------------------------------------------------- stops, scores, limits


def forced(model: Any, tokens: list[int]) -> Callable[[], None]:
    """Have the model write exactly these tokens. Returns how to undo it."""
    written = iter(tokens)

    def force(module: Any, args: Any, logits: torch.Tensor) -> torch.Tensor:
        wanted = torch.full_like(logits, -100.0)
        wanted[:, -1, next(written)] = 100.0
        return wanted

    handle = model.lm_head.register_forward_hook(force)
    return lambda: handle.remove()


@pytest.mark.parametrize(
    ("stop", "shown"),
    [(("girl",), "A boy and a "), (("y a", "zzz"), "A bo"), (("A",), ""), (("漢",), "A boy and a girl né"), ((), None)],
)
def test_a_text_ends_before_a_stop_string(
    llama: tuple[Any, TextTokenizer], stop: tuple[str, ...], shown: str | None
) -> None:
    model, tokenizer = llama
    whole = "A boy and a girl né漢 b"
    lane = lane_of(llama)
    engine = Engine([lane])
    one = collect(engine, Request("", Decoding(60, temperature=0), 7, stop=stop))[0]
    undo = forced(model, [*tokenizer.encode_batch([whole])[0], tokenizer.end_id])
    lane.admit([one.ticket])
    while lane.rows:
        lane.step()
    undo()
    assert one.text == (whole if shown is None else shown)
    assert one.pieces[-1].finish == "stop"
    assert not any("\ufffd" in piece.text for piece in one.pieces)


def test_what_may_become_a_stop_string_is_shown_once_it_does_not(llama: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = llama
    lane = lane_of(llama)
    one = collect(Engine([lane]), Request("", Decoding(60, temperature=0), 7, stop=("boy and a man",)))[0]
    undo = forced(model, [*tokenizer.encode_batch(["A boy and a girl. A boy and"])[0], tokenizer.end_id])
    lane.admit([one.ticket])
    while lane.rows:
        lane.step()
    undo()
    assert one.text == "A boy and a girl. A boy and"


def test_log_probabilities_are_the_models(llama: tuple[Any, TextTokenizer], engine: Engine) -> None:
    model, tokenizer = llama
    request = Request("A boy", Decoding(6, temperature=0.9), 3, top_logprobs=4)
    scores = [score for piece in engine.stream(request) for score in piece.scores]
    ids = engine.ids_of(request)
    for score in scores:
        with torch.no_grad():
            expected = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, -1], -1)
        top = expected.topk(4)
        assert [one.logprob for one in score.top] == pytest.approx(top.values.tolist(), abs=1e-5)
        near = (expected - score.logprob).abs() < 1e-5
        spelt = [n for n in near.nonzero()[:, 0].tolist() if tokenizer.decode([n], False) == score.text]
        token = spelt[0]
        ids.append(token)
    assert len(scores) == 6


def test_the_context_ends_a_text_and_refuses_a_prompt_that_fills_it(engine: Engine) -> None:
    found = engine.write([Request(tuple([5] * 508), Decoding(30, temperature=0), 7)])[0]
    assert found.num_tokens == 4 or found.ended
    with pytest.raises(ModelError, match="leaves no room in the model's context of 512"):
        engine.submit(Request(tuple([5] * 512), SAMPLED, 7), print)
    with pytest.raises(ModelError, match="'other': not loaded"):
        engine.submit(Request("a", SAMPLED, 7, voice="other"), print)


@pytest.mark.parametrize(
    "options", [{"stop": ("",)}, {"stop": ("a",) * 5}, {"stop": ("a" * 300,)}, {"top_logprobs": 21}]
)
def test_requests_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TunesmithError, match="Expected"):
        Request("a", SAMPLED, 7, **options)


# ------------------------------------------------------------------------------------------------ waiting and leaving


def test_who_leaves_frees_a_row_and_hears_nothing_more(llama: tuple[Any, TextTokenizer]) -> None:
    lane = lane_of(llama)
    engine = Engine([lane])
    first, second = collect(engine, Request("A boy", Decoding(400, 2.0), 1), Request("A girl", Decoding(8, 2.0), 2))
    lane.admit([first.ticket, second.ticket])
    first.ticket.cancel()
    heard = len(first.pieces)
    lane.drop_cancelled()
    assert [row.ticket for row in lane.rows] == [second.ticket]
    while lane.rows:
        lane.step()
    assert len(first.pieces) == heard
    alone = generate(*llama, ["A girl"], max_new_tokens=8, temperature=2.0, top_p=1.0, seed=2)[0]
    assert second.text == alone.text


def test_closing_a_stream_cancels_it(llama: tuple[Any, TextTokenizer]) -> None:
    passes: list[int] = []
    llama[0].model.register_forward_pre_hook(lambda module, args: passes.append(1))
    engine = Engine([lane_of(llama)]).start()
    stream = engine.stream(Request("A boy", Decoding(500, temperature=0), 1))
    next(stream)
    stream.close()
    engine.close(drain=True)
    assert len(passes) < 400


def test_too_many_wait(llama: tuple[Any, TextTokenizer]) -> None:
    engine = Engine([lane_of(llama)], max_waiting=2)
    for _ in range(2):
        engine.submit(Request("a", SAMPLED, 7), lambda piece: None)
    with pytest.raises(Busy, match="2 requests wait already"):
        engine.submit(Request("a", SAMPLED, 7), lambda piece: None)


def test_rows_are_bounded_by_number_and_by_tokens(llama: tuple[Any, TextTokenizer]) -> None:
    lane = lane_of(llama, max_rows=3)
    engine = Engine([lane], max_tokens=2 * (1 + 24))
    for _ in range(5):
        engine.submit(Request("", SAMPLED, 7), lambda piece: None)
    assert len(engine._take(lane)) == 2
    engine = Engine([lane])
    for _ in range(5):
        engine.submit(Request("", SAMPLED, 7), lambda piece: None)
    assert len(engine._take(lane)) == 3
    lone = Engine([lane], max_tokens=5)
    lone.submit(Request("", SAMPLED, 7), lambda piece: None)
    assert len(lone._take(lane)) == 1


def test_draining_finishes_what_was_taken_and_takes_no_more(llama: tuple[Any, TextTokenizer]) -> None:
    engine = Engine([lane_of(llama, max_rows=2)]).start()
    pieces: list[list[Piece]] = [[] for _ in range(6)]
    for kept in pieces:
        engine.submit(Request("A boy", SAMPLED, 7), kept.append)
    engine.close(drain=True)
    assert all(kept[-1].finish for kept in pieces)
    with pytest.raises(EngineClosed):
        engine.submit(Request("a", SAMPLED, 7), print)


def test_closing_tells_those_who_wait(llama: tuple[Any, TextTokenizer]) -> None:
    engine = Engine([lane_of(llama)])
    pieces: list[Piece] = []
    engine.submit(Request("A boy", SAMPLED, 7), pieces.append)
    engine.close()
    assert pieces[-1].error == "the server is closing."


def test_a_model_that_raises_fails_its_texts_and_the_engine_goes_on(
    llama: tuple[Any, TextTokenizer], engine: Engine
) -> None:
    def fail(module: Any, args: Any) -> None:
        raise RuntimeError("no memory")

    handle = llama[0].model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(ModelError, match="RuntimeError: no memory"):
        engine.write([Request("a", SAMPLED, 7)])
    handle.remove()
    assert engine.write([Request("a", SAMPLED, 7)])[0].text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_greedy_text_on_a_gpu_is_that_of_plain_transformers(loaded: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = loaded
    model.to("cuda")
    requests = [Request(prompt, Decoding(30, temperature=0), 7) for prompt in PROMPTS * 4]
    with Engine([Lane(model, [Voice("tuned", tokenizer)])]) as engine:
        found = engine.write(requests)
    assert found == generate(model, tokenizer, PROMPTS * 4, max_new_tokens=30, temperature=0, top_p=1.0, seed=7)
    model.to("cpu")

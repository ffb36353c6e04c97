"""Texts are reproducible, independent of their batch, drawn from the right distribution, and end where they should."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.errors import ModelError, TunesmithError
from tunesmith.generate.text import Decoding, choose, generate, stream
from tunesmith.models.load import load_for_generation
from tunesmith.models.tokenizer import TextTokenizer

PROMPTS = ["", "One fine morning", "A boy", "A boy and a girl who live by the sea", "", "x"]
DECODING: dict[str, Any] = {"max_new_tokens": 24, "temperature": 0.8, "top_p": 1.0, "seed": 7}


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_gpt_neo"])
def loaded(request: pytest.FixtureRequest) -> tuple[Any, TextTokenizer]:
    """A model that now and then ends: a random one gives the end token 1 of 512 draws, this one 1 of 4 or 5."""
    model, tokenizer = load_for_generation(str(request.getfixturevalue(request.param)), device="cpu")
    biased = torch.zeros(512)
    biased[tokenizer.end_id] = 4.0
    model.lm_head.register_forward_hook(lambda module, args, logits: logits + biased)
    return model, tokenizer


@pytest.fixture
def llama(tiny_llama: Path) -> tuple[Any, TextTokenizer]:
    return load_for_generation(str(tiny_llama), device="cpu")


def one_by_one(model: Any, tokenizer: TextTokenizer, prompt: str, steps: int) -> list[int]:
    """Greedy ids without cache, padding or batch."""
    ids = [tokenizer.start_id, *tokenizer.encode_batch([prompt])[0]]
    new: list[int] = []
    for _ in range(steps):
        with torch.no_grad():
            new.append(int(model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax()))
        if new[-1] == tokenizer.end_id:
            break
    return new


# ---------------------------------------------------------------------------------------------------------- batches


def test_greedy_texts_are_those_of_a_loop_without_cache(llama: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = llama
    found = generate(model, tokenizer, PROMPTS, **{**DECODING, "temperature": 0})
    for generation in found:
        ids = one_by_one(model, tokenizer, generation.prompt, 24)
        text = ids[:-1] if generation.ended else ids
        assert generation.text == tokenizer.decode(text)
        assert generation.num_tokens == len(text)
        assert generation.ended == (ids[-1] == tokenizer.end_id)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("decoding", [{}, {"top_p": 0.7}, {"temperature": 0}], ids=["sampled", "top_p", "greedy"])
def test_a_text_does_not_depend_on_its_batch(
    loaded: tuple[Any, TextTokenizer], batch_size: int, decoding: dict[str, float]
) -> None:
    options = {**DECODING, **decoding}
    together = generate(*loaded, PROMPTS, **options)
    assert generate(*loaded, PROMPTS, batch_size=batch_size, **options) == together
    assert generate(*loaded, PROMPTS[3:4], **options) == together[3:4]
    assert generate(*loaded, [*PROMPTS, "another"], **options)[:6] == together


def test_results_come_in_the_order_of_the_prompts(loaded: tuple[Any, TextTokenizer]) -> None:
    assert [generation.prompt for generation in generate(*loaded, PROMPTS, **DECODING)] == PROMPTS
    assert generate(*loaded, [], **DECODING) == []


def test_the_seed_decides_and_a_repeated_prompt_is_written_anew(loaded: tuple[Any, TextTokenizer]) -> None:
    first = generate(*loaded, PROMPTS, **DECODING)
    torch.manual_seed(123)
    assert generate(*loaded, PROMPTS, **DECODING) == first
    assert first[0].text != first[4].text  # the prompt "" twice
    other = generate(*loaded, PROMPTS, **{**DECODING, "seed": 8})
    assert sum(a.text != b.text for a, b in zip(first, other, strict=True)) >= 4  # some end at once with either


def test_a_longer_limit_only_adds_to_a_text(loaded: tuple[Any, TextTokenizer]) -> None:
    short = generate(*loaded, PROMPTS, **{**DECODING, "max_new_tokens": 5})
    long = generate(*loaded, PROMPTS, **DECODING)
    for a, b in zip(short, long, strict=True):
        assert a == b if a.ended else b.num_tokens >= a.num_tokens == 5


def test_rows_that_ended_leave_the_batch(loaded: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = loaded
    rows: list[int] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    found = generate(model, tokenizer, [""] * 24, **{**DECODING, "max_new_tokens": 60})
    handle.remove()
    assert rows[0] == 24
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < 12
    ended = [generation for generation in found if generation.ended]
    assert len(ended) >= 20
    assert all(generation.num_tokens <= 60 for generation in found)
    assert {generation.num_tokens for generation in found if not generation.ended} <= {60}


def test_the_model_comes_back_as_it_was(loaded: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = loaded
    model.train()
    generate(model, tokenizer, ["a"], **DECODING)
    list(stream(model, tokenizer, "a", **DECODING))
    assert model.training
    model.eval()
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


# ---------------------------------------------------------------------------------------------------------- sampling


def frequencies(logits: torch.Tensor, decoding: Decoding, draws: int = 4000) -> Counter[int]:
    uniform = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    return Counter(choose(logits.expand(draws, -1), uniform, decoding).tolist())


def test_tokens_are_drawn_with_their_probability() -> None:
    shares = torch.tensor([0.5, 0.2, 0.0, 0.3])
    found = frequencies(shares.log()[None], Decoding(1))
    assert found == {0: 2000, 1: 800, 3: 1200}


def test_temperature_sharpens() -> None:
    shares = torch.tensor([0.5, 0.2, 0.3])
    found = frequencies(shares.log()[None], Decoding(1, temperature=0.5))
    squares = shares**2 / (shares**2).sum()
    assert [found[i] / 4000 for i in range(3)] == pytest.approx(squares.tolist(), abs=1e-3)
    assert frequencies(shares.log()[None], Decoding(1, temperature=0)) == {0: 4000}


def test_top_p_keeps_the_smallest_set_with_that_mass() -> None:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()[None]
    assert frequencies(logits, Decoding(1, top_p=0.39)) == {1: 4000}
    found = frequencies(logits, Decoding(1, top_p=0.69))
    assert [found[i] / 4000 for i in range(4)] == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=1e-3)
    assert set(frequencies(logits, Decoding(1, top_p=0.95))) == {0, 1, 2, 3}


def test_draws_at_the_edges_pick_what_can_be_picked() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(2, -1)
    edges = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    assert choose(logits, edges, Decoding(1)).tolist() == [1, 2]


# ------------------------------------------------------------------------------------------------------------ limits


def test_the_end_of_the_context_ends_a_text(tiny_gpt_neo: Path) -> None:
    model, tokenizer = load_for_generation(str(tiny_gpt_neo), device="cpu")
    tokenizer_ids = 512 - 6  # the context is 512; start takes one place
    prompt = tokenizer.decode([tokenizer.encode_batch(["x"])[0][0]] * (tokenizer_ids - 1))
    assert len(tokenizer.encode_batch([prompt])[0]) == tokenizer_ids - 1
    options = {**DECODING, "temperature": 0}
    others = ["A boy"] * 8
    found = generate(model, tokenizer, [prompt, *others], **options)
    assert found[0].num_tokens == 6 or found[0].ended
    assert found[1:] == generate(model, tokenizer, others, **options)
    assert found[1].num_tokens > 6
    with pytest.raises(ModelError, match="leaves no room in the model's context of 512"):
        generate(model, tokenizer, [prompt + "x" * 6], **options)


@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", -0.1), ("temperature", float("nan")), ("top_p", 0.0), ("top_p", 1.1), ("max_new_tokens", 0)],
)
def test_decoding_that_makes_no_sense_is_refused(loaded: tuple[Any, TextTokenizer], option: str, value: float) -> None:
    for write in (lambda **o: generate(*loaded, ["a"], **o), lambda **o: stream(*loaded, "a", **o)):
        with pytest.raises(TunesmithError, match=option):
            write(**{**DECODING, option: value})


def test_a_model_that_is_not_a_number_is_refused(llama: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = llama
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        generate(model, tokenizer, ["a"], **DECODING)


def test_control_tokens_in_a_prompt_are_text(loaded: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = loaded
    fed: list[torch.Tensor] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["input_ids"]), with_kwargs=True
    )
    generate(model, tokenizer, ["a<|endoftext|>b"], **DECODING)
    handle.remove()
    assert fed[0][0].tolist().count(tokenizer.end_id) == 1  # the start token alone


# ------------------------------------------------------------------------------------------------------------ stream


@pytest.mark.parametrize("prompt", PROMPTS)
def test_pieces_join_to_the_same_text(loaded: tuple[Any, TextTokenizer], prompt: str) -> None:
    pieces = list(stream(*loaded, prompt, **DECODING))
    assert all(pieces)
    assert "".join(pieces) == generate(*loaded, [prompt], **DECODING)[0].text


def test_ids_are_fed_as_they_are(llama: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = llama
    ids = [tokenizer.start_id, *tokenizer.encode_batch(["A boy"])[0]]
    greedy = {**DECODING, "temperature": 0}
    assert "".join(stream(model, tokenizer, ids, **greedy)) == "".join(stream(model, tokenizer, "A boy", **greedy))


def test_a_character_of_several_tokens_comes_in_one_piece(llama: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = llama
    wanted = [*tokenizer.encode_batch(["né漢 b"])[0], tokenizer.end_id]
    assert len(wanted) > 6
    written = iter(wanted)

    def force(module: Any, args: Any, logits: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(logits, -100.0)
        forced[:, -1, next(written)] = 100.0
        return forced

    handle = model.lm_head.register_forward_hook(force)
    pieces = list(stream(model, tokenizer, "A", **DECODING))
    handle.remove()
    assert "".join(pieces) == "né漢 b"
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 2

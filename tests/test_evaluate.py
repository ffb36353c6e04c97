"""Scores are those of a plain forward pass, document by document, whatever the batches and the memory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tunesmith import fast
from tunesmith.api import evaluate_file
from tunesmith.cli import app
from tunesmith.data.tokens.documents import TokenizedDocuments
from tunesmith.errors import DataError, TrainingError
from tunesmith.evaluate import Scores, evaluate
from tunesmith.machine.memory import is_out_of_memory
from tunesmith.models.adapters import attach_lora
from tunesmith.models.load import load_for_generation
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.recipe import LoraSection

TEXTS = ["A boy and a girl", "x", "One fine morning in the year 2019, a ship", "", "sea " * 30, "é漢", "A boy"]


@pytest.fixture(params=["tiny_llama", "tiny_gpt_neo"])
def loaded(request: pytest.FixtureRequest) -> tuple[Any, TextTokenizer]:
    model, tokenizer = load_for_generation(str(request.getfixturevalue(request.param)), device="cpu")
    fast.apply(model)
    return model, tokenizer


def documents_of(tokenizer: TextTokenizer, *, prompts: bool = False) -> TokenizedDocuments:
    """Each text as a document; with `prompts`, the first half of its tokens is not supervised."""
    pairs = []
    for ids in tokenizer.encode_batch(TEXTS):
        whole = [tokenizer.start_id, *ids, tokenizer.end_id]
        mask = [i > len(ids) // 2 for i in range(len(whole))] if prompts else None
        pairs.append((whole, mask))
    documents = TokenizedDocuments.from_lists(pairs)
    num_bytes = np.array([len(text.encode()) for text in TEXTS])
    return TokenizedDocuments(
        tokens=documents.tokens,
        offsets=documents.offsets,
        supervised=documents.supervised,
        rows=documents.rows,
        num_bytes=num_bytes,
    )


class OneOf:
    """One of two processes, whose sums are made when the other has been scored."""

    def __init__(self, rank: int, shards: bool, beside: list[np.ndarray]) -> None:
        self.rank, self.size, self.shards, self.beside = rank, 2, shards, beside

    def sums(self, values: np.ndarray) -> np.ndarray:
        self.beside.append(values)
        return np.sum(self.beside, axis=0)


def plain_scores(model: Any, documents: TokenizedDocuments) -> tuple[np.ndarray, float]:
    """Loss of each document and the share of tokens right, by transformers alone, one document at a time."""
    losses, correct = [], 0
    for ids, supervised in documents:
        fed = torch.from_numpy(ids.astype(np.int64))
        with torch.no_grad():
            logits = model(input_ids=fed[None, :-1]).logits[0]
        wanted = torch.from_numpy(supervised[1:])
        each = torch.nn.functional.cross_entropy(logits, fed[1:], reduction="none")
        losses.append(float(each[wanted].double().sum()))
        correct += int((logits.argmax(-1) == fed[1:])[wanted].sum())
    return np.array(losses), correct / documents.num_targets


def assert_same(found: Scores, expected: Scores) -> None:
    np.testing.assert_allclose(found.document_loss, expected.document_loss, rtol=1e-5, atol=1e-5)
    assert found.token_accuracy == expected.token_accuracy
    assert (found.num_tokens, found.num_documents) == (expected.num_tokens, expected.num_documents)


@pytest.mark.parametrize("prompts", [False, True], ids=["text", "completions"])
def test_scores_are_those_of_a_plain_forward_pass(loaded: tuple[Any, TextTokenizer], prompts: bool) -> None:
    model, tokenizer = loaded
    documents = documents_of(tokenizer, prompts=prompts)
    losses, accuracy = plain_scores(model, documents)
    found = evaluate(model, documents, max_tokens=64)
    np.testing.assert_allclose(found.document_loss, losses, rtol=1e-5)
    total = losses.sum()
    assert found.loss == pytest.approx(total / documents.num_targets, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(total / documents.num_targets), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(total / math.log(2) / sum(len(t.encode()) for t in TEXTS), rel=1e-6)
    assert found.token_accuracy == accuracy
    assert (found.num_tokens, found.num_documents) == (documents.num_targets, len(TEXTS))
    assert found.seconds > 0


def test_the_end_token_counts(loaded: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = loaded
    nothing = TokenizedDocuments.from_lists([([tokenizer.start_id, tokenizer.end_id], None)])
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([[tokenizer.start_id]])).logits[0, 0]
    found = evaluate(model, nothing, max_tokens=8)
    assert found.num_tokens == 1
    assert found.loss == pytest.approx(float(-scores.log_softmax(-1)[tokenizer.end_id]), rel=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 7, 40, 10_000])
def test_batches_change_nothing(loaded: tuple[Any, TextTokenizer], max_tokens: int) -> None:
    model, tokenizer = loaded
    documents = documents_of(tokenizer)
    assert_same(evaluate(model, documents, max_tokens=max_tokens), evaluate(model, documents, max_tokens=64))


@pytest.mark.parametrize("max_tokens", [40, 10_000])
def test_under_autocast_the_filled_up_rows_are_not_scored(loaded: tuple[Any, TextTokenizer], max_tokens: int) -> None:
    documents = documents_of(loaded[1])
    exact = evaluate(loaded[0], documents, max_tokens=max_tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = evaluate(loaded[0], documents, max_tokens=max_tokens)
    np.testing.assert_allclose(found.document_loss, exact.document_loss, rtol=2e-2)
    assert (found.num_tokens, found.num_documents) == (exact.num_tokens, exact.num_documents)


def test_a_model_with_an_adapter_is_scored(tiny_llama: Path) -> None:
    model, tokenizer = load_for_generation(str(tiny_llama), device="cpu")
    fast.apply(model)
    adapted = attach_lora(model, LoraSection(rank=2), "lora")
    documents = documents_of(tokenizer)
    before = evaluate(adapted, documents, max_tokens=64)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter += 0.1
    losses, _ = plain_scores(adapted, documents)
    found = evaluate(adapted, documents, max_tokens=64)
    np.testing.assert_allclose(found.document_loss, losses, rtol=1e-5)
    assert found.loss != before.loss


def test_dropout_is_off_and_the_mode_comes_back(loaded: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = loaded
    documents = documents_of(tokenizer)
    expected = evaluate(model, documents, max_tokens=64)
    model.train()
    modes: list[bool] = []
    handle = model.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    assert_same(evaluate(model, documents, max_tokens=64), expected)
    handle.remove()
    assert model.training
    assert not any(modes)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_is_told_in_documents(loaded: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = loaded
    told: list[tuple[int, int]] = []
    evaluate(model, documents_of(tokenizer), max_tokens=30, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert len(told) > 2
    assert told[-1] == (len(TEXTS), len(TEXTS))


# --------------------------------------------------------------------------------------------------------------- memory


class SmallMemory:
    """Stands before a model and fails, as an allocator would, on more fed tokens than `room`."""

    def __init__(self, model: Any, room: int, error: Exception) -> None:
        self.model, self.room, self.error = model, room, error
        self.device, self.training = model.device, False
        self.fed: list[int] = []

    def __call__(self, *, flat: Any, **options: Any) -> Any:
        self.fed.append(flat.num_tokens)
        if flat.num_tokens > self.room:
            raise self.error
        return self.model(flat=flat, **options)

    def eval(self) -> None: ...

    def train(self, mode: bool) -> None: ...


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_running_out_of_memory_halves_the_batches_and_changes_no_score(
    loaded: tuple[Any, TextTokenizer], error: Exception
) -> None:
    model, tokenizer = loaded
    documents = documents_of(tokenizer)
    longest = int(documents.lengths.max()) - 1
    small = SmallMemory(model, room=longest, error=error)
    assert_same(evaluate(small, documents, max_tokens=10_000), evaluate(model, documents, max_tokens=64))
    assert small.fed[0] == int((documents.lengths - 1).sum())
    assert small.fed[1] <= small.fed[0] // 2 or small.fed[1] == longest
    assert sum(fed for fed in small.fed if fed <= longest) == small.fed[0]  # each document scored once


def test_a_document_that_does_not_fit_alone_is_named(loaded: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = loaded
    documents = documents_of(tokenizer)
    small = SmallMemory(model, room=int(documents.lengths.max()) - 2, error=OUT_OF_MEMORY[0])
    with pytest.raises(TrainingError, match=r"row 5: its \d+ tokens do not fit in memory even alone"):
        evaluate(small, documents, max_tokens=10_000)


def test_other_errors_are_not_taken_for_memory(loaded: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = loaded
    broken = SmallMemory(model, room=0, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        evaluate(broken, documents_of(tokenizer), max_tokens=64)
    assert len(broken.fed) == 1
    assert not is_out_of_memory(ValueError("out of memory"))


# ----------------------------------------------------------------------------------------------------------- edge cases


def test_nothing_to_score_is_refused(loaded: tuple[Any, TextTokenizer]) -> None:
    model, tokenizer = loaded
    with pytest.raises(DataError, match="0 documents hold no supervised token"):
        evaluate(model, TokenizedDocuments.from_lists([]), max_tokens=64)
    unsupervised = TokenizedDocuments.from_lists([([tokenizer.start_id, 5, tokenizer.end_id], [False] * 3)])
    with pytest.raises(DataError, match="1 documents hold no supervised token"):
        evaluate(model, unsupervised, max_tokens=64)


def test_a_hopeless_model_has_infinite_perplexity_and_no_bytes_give_no_rate(
    loaded: tuple[Any, TextTokenizer],
) -> None:
    model, tokenizer = loaded
    with torch.no_grad():
        model.get_output_embeddings().weight *= 1e6
    documents = TokenizedDocuments.from_lists([([tokenizer.start_id, 5, tokenizer.end_id], None)])
    documents.num_bytes[:] = 0
    found = evaluate(model, documents, max_tokens=64)
    assert found.perplexity == math.inf
    assert math.isnan(found.bits_per_byte)


CASES = Path(__file__).parent / "cases"


def test_eval_scores_one_row(tiny_llama: Path) -> None:
    data = CASES / "eval_one_row" / "one1.jsonl"
    done = CliRunner().invoke(app, ["eval", str(tiny_llama), "--data", str(data), "--text", "text", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["num_documents"] == 1


def test_eval_scores_every_row_of_a_folder_with_splits(tiny_llama: Path) -> None:
    scores = evaluate_file(str(tiny_llama), str(CASES / "folder_with_splits" / "d"))
    assert scores["num_documents"] == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no column was chosen and 4 hold text. Columns: title, type, genre, description. Give --text description"),
        (["--text", "descripton"], "no column 'descripton' (--text). Did you mean 'description'?"),
    ],
)
def test_eval_speaks_of_its_own_options(
    tiny_llama: Path, shows_csv: Path, options: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says it before the model is touched."""
    monkeypatch.setattr("tunesmith.models.load.load_for_generation", None)
    done = CliRunner().invoke(app, ["eval", str(tiny_llama), "--data", str(shows_csv), *options])
    assert isinstance(done.exception, DataError)
    assert said in str(done.exception)
    assert "data.text" not in str(done.exception)


@pytest.mark.parametrize("shards", [False, True])
def test_several_processes_score_their_shares(loaded: tuple[Any, TextTokenizer], shards: bool) -> None:
    model, tokenizer = loaded
    documents = documents_of(tokenizer)
    passes: list[int] = []
    handle = model.register_forward_pre_hook(lambda *_: passes.append(1))
    expected = evaluate(model, documents, max_tokens=1)  # a pass for each document, of which there are seven
    told, made, beside = list[tuple[int, int]](), list[int](), list[np.ndarray]()
    for rank in (0, 1):
        passes.clear()
        together = OneOf(rank, shards, beside)
        found = evaluate(model, documents, max_tokens=1, progress=lambda *to: told.append(to), together=together)
        made.append(len(passes))
    handle.remove()
    assert_same(found, expected)
    own = [values[:-1] != 0 for values in beside]
    assert all(share.any() for share in own)
    assert not (own[0] & own[1]).any()
    assert sum(total for done, total in told if done == total) == len(documents)
    assert (made[0] == made[1]) == shards


def test_processes_that_hold_shards_do_not_try_a_smaller_batch(
    loaded: tuple[Any, TextTokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    monkeypatch.setattr("tunesmith.evaluate._score", lambda *_, **__: None)
    with pytest.raises(TrainingError, match="processes that hold shards cannot try a smaller one alone"):
        evaluate(model, documents_of(tokenizer), max_tokens=64, together=OneOf(0, True, []))

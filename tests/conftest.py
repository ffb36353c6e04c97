"""Fixtures that several rooms share. No test needs a network: models and tokenizers are built here."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:  # as nohup leaves them; runs would ignore them too
        signal.signal(_number, _usual)

ASSETS = Path(__file__).parents[1] / "src" / "tunesmith" / "assets"


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def shows_csv() -> Path:
    """The 750 invented show descriptions that ship with the package."""
    return ASSETS / "shows.csv"


def build_tokenizer(path: Path) -> int:
    """Train a byte-level BPE of 512 entries on the shows and save it. Returns its vocabulary size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((ASSETS / "shows.csv").read_text(encoding="utf-8").splitlines()[1:200], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    fast.save_pretrained(path)
    return len(fast)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with random weights and grouped-query attention, with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("tiny-llama")
    vocab_size = build_tokenizer(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_gpt_neo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer GPT-Neo (one global, one local layer with a window of 8) with random weights and its tokenizer."""
    import torch
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    path = tmp_path_factory.mktemp("tiny-gpt-neo")
    vocab_size = build_tokenizer(path)
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
        embed_dropout=0.0,
        attention_dropout=0.0,
        resid_dropout=0.0,
    )
    GPTNeoForCausalLM(config).save_pretrained(path)
    return path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A row for each kind of fault that tests/faults injects: how often, and how often the run survived it."""
    rows: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for status in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(status, ()):
            properties = dict(getattr(report, "user_properties", ()))
            if "fault_row" in properties and (status != "passed" or report.when == "call"):
                cases = properties.get("fault_cases", 1)
                row = rows[properties["fault_row"]]
                row[0] += cases
                row[1] += cases if status == "passed" else 0
    if not rows:
        return
    terminalreporter.section("faults survived")
    terminalreporter.write_line("| fault | cases | survived |")
    terminalreporter.write_line("|---|---|---|")
    for name, (cases, survived) in rows.items():
        terminalreporter.write_line(f"| {name} | {cases} | {survived} |")

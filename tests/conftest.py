"""Fixtures that several rooms share. No test needs a network: models and tokenizers are built here."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from rich.console import Console

from tunesmith.data import Data, prepare
from tunesmith.forecast.forecaster import Target
from tunesmith.forecast.workload import Split, Workload
from tunesmith.machine.gpus import find_gpu
from tunesmith.models.find import find_model
from tunesmith.models.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.recipe import DataSection, Recipe
from tunesmith.run.artefacts import Plan, Result
from tunesmith.run.directory import RunDir

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


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer GPT-2 with random weights and its tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    path = tmp_path_factory.mktemp("tiny-gpt2")
    vocab_size = build_tokenizer(path)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=512, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_sliding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Mistral with random weights whose attention sees 12 tokens, and its tokenizer."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    path = tmp_path_factory.mktemp("tiny-sliding")
    vocab_size = build_tokenizer(path)
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        sliding_window=12,
        bos_token_id=0,
        eos_token_id=0,
    )
    MistralForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def lora_run(tiny_llama: Path, shows_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory whose model is an adapter of random weights on the tiny Llama. For reading alone."""
    import torch

    from tunesmith.models.adapters import attach_lora
    from tunesmith.models.load import load_model, save_model

    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "max_rows": 60, "eval_fraction": 0.2},
        train={"method": "lora", "max_length": 256},
        lora={"rank": 4},
        compare={"max_new_tokens": 8, "prompts": ["One fine morning"]},
    )
    run_dir = RunDir.create(tmp_path_factory.mktemp("runs") / "lora")
    run_dir.write_recipe(recipe)
    source = find_model(str(tiny_llama))
    model = attach_lora(load_model(source), recipe.lora, "lora")
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    save_model(model, load_tokenizer(source), run_dir.model, "An adapter.")
    return run_dir.path


@pytest.fixture(scope="session")
def tiny_run(tiny_llama: Path, shows_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of the whole pipeline, compared and reported: 72 training and 18 held-out shows by genre, two epochs of a
    two-layer model, 12 scored samples. For reading alone; `copied_run` may be changed."""
    import tunesmith

    recipe = Recipe(
        model={"name": str(tiny_llama)},
        data={"path": str(shows_csv), "text": "description", "slice": "genre", "max_rows": 90, "eval_fraction": 0.2},
        train={"epochs": 2, "learning_rate": 5e-3, "tokens_per_step": 1024, "max_length": 256},
        eval={"every": 4},
        save={"every": 8},
        compare={"num_samples": 12, "max_new_tokens": 12, "prompts": ["One fine morning"]},
    )
    run = tunesmith.train(recipe, out=tmp_path_factory.mktemp("runs") / "tiny", console=Console(quiet=True))
    run.compare()
    run.report()
    return run.dir


@pytest.fixture
def copied_run(tiny_run: RunDir, tmp_path: Path) -> RunDir:
    """A copy of the tiny run without its checkpoints."""
    return copy_run(tiny_run, tmp_path)


def copy_run(run_dir: RunDir, folder: Path) -> RunDir:
    """A copy of a run in `folder`, without its checkpoints."""
    shutil.copytree(run_dir.path, folder / run_dir.path.name, ignore=shutil.ignore_patterns("checkpoints"))
    return RunDir.open(folder / run_dir.path.name)


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer(tiny_llama: Path) -> TextTokenizer:
    """A byte-level BPE of 512 entries without a chat template; start and end are <|endoftext|>."""
    return load_tokenizer(find_model(str(tiny_llama)))


@pytest.fixture(scope="session")
def chat_llama(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with ChatML's control tokens and template, and rows for them; its EOS ends no turn."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path_factory.mktemp("chat") / "model"
    backend = AutoTokenizer.from_pretrained(tiny_llama)
    backend.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    backend.chat_template = CHATML
    backend.save_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.resize_token_embeddings(len(backend), mean_resizing=False)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def chat_tokenizer(chat_llama: Path) -> TextTokenizer:
    """The plain tokenizer's vocabulary with ChatML's control tokens and template."""
    return load_tokenizer(find_model(str(chat_llama)))


@pytest.fixture
def prepared(tokenizer: TextTokenizer) -> Callable[..., Data]:
    """prepare() with recipe values as keywords, max_length 128 and the plain tokenizer unless given."""

    def call(path: Any, *, max_length: int = 128, with_tokenizer: TextTokenizer | None = None, **values: Any) -> Data:
        small = values.pop("small", False)
        section = DataSection(path=str(path) if isinstance(path, Path) else path, **values)
        return prepare(section, with_tokenizer or tokenizer, max_length, small=small)

    return call


@pytest.fixture
def texts() -> list[str]:
    """60 different texts, far from near-duplicates."""
    letters = random.Random(7)
    return [" ".join("".join(letters.choices("abcdefghiklmnoprstuvw", k=5)) for _ in range(9)) + "." for _ in range(60)]


def new_llama(num_layers: int) -> Any:
    """Like layers with grouped-query attention and tied embeddings."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


def new_neo(num_pairs: int) -> Any:
    """Layers, global and local in turn, with a window that long documents pass."""
    from transformers import GPTNeoConfig

    return GPTNeoConfig(
        vocab_size=256,
        hidden_size=32,
        num_layers=2 * num_pairs,
        num_heads=4,
        attention_types=[[["global", "local"], num_pairs]],
        window_size=16,
        max_position_embeddings=128,
        embed_dropout=0.0,
        attention_dropout=0.0,
        resid_dropout=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )


@pytest.fixture(scope="session")
def llama_config() -> Any:
    """Eight layers."""
    return new_llama(8)


@pytest.fixture(scope="session")
def neo_config() -> Any:
    """Twelve layers."""
    return new_neo(6)


@pytest.fixture(scope="session")
def short_llama_config() -> Any:
    """Three layers."""
    return new_llama(3)


@pytest.fixture(scope="session")
def short_neo_config() -> Any:
    """Two layers."""
    return new_neo(1)


@pytest.fixture(scope="session")
def wide_config() -> Any:
    """Three layers whose tensors are large against Python's own."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=2048,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


@pytest.fixture
def workload() -> Workload:
    """600 short documents and 60 held-out ones."""
    lengths = np.random.default_rng(0).integers(20, 60, 660)
    return Workload(
        Split(lengths[:600], int(lengths[:600].sum())), Split(lengths[600:], int(lengths[600:].sum())), "made here"
    )


@pytest.fixture(scope="session")
def new_recipe() -> Callable[..., Recipe]:
    """new_recipe(**values of the train section)."""

    def make(**train: Any) -> Recipe:
        model, data = {"name": "EleutherAI/gpt-neo-125m"}, {"path": "shows.csv", "text": "text"}
        return Recipe(model=model, data=data, train=train)

    return make


@pytest.fixture(scope="session")
def new_target() -> Callable[..., Target]:
    """new_target(gigabytes, device="cuda"): a device with so much memory, of which nothing is taken."""

    def make(gigabytes: float, device: Any = "cuda", **more: Any) -> Target:
        gpu = device == "cuda"
        values = {"bf16": gpu, "flash": gpu, "here": not gpu, "gpu": find_gpu("a100") if gpu else None, **more}
        return Target("a test device", device, int(gigabytes * 1e9), 0, **values)

    return make


@pytest.fixture(scope="session")
def new_plan() -> Callable[..., Plan]:
    """new_plan(**values): a plan of one full step on a CPU, but for the values."""

    def make(**values: Any) -> Plan:
        plain: dict[str, Any] = {
            "method": "full",
            "precision": "fp32",
            "dtype": "float32",
            "optimizer": "adamw",
            "learning_rate": 2e-4,
            "schedule": "linear",
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "epochs": 1.0,
            "num_steps": 1,
            "tokens_per_step": 256,
            "micro_batch_tokens": 256,
            "max_length": 256,
            "gradient_checkpointing": False,
            "compile": False,
            "lora": None,
            "eval_every": 1,
            "save_every": 1,
            "save_keep": 2,
            "rehearse": True,
            "report_to": (),
            "seed": 7,
            "device": "cpu",
            "num_processes": 1,
            "reasons": {},
            "predicted": None,
        }
        return Plan(**{**plain, **values})

    return make


@pytest.fixture(scope="session")
def new_result() -> Callable[..., Result]:
    """new_result(**values): of a finished run of five steps, but for the values."""

    def make(**values: Any) -> Result:
        nothing: dict[str, Any] = dict.fromkeys(Result.model_fields)
        numbers = {"train_tokens": 0, "train_seconds": 1.0, "total_seconds": 1.0, "save_seconds": 0.0}
        more = {
            "eval_seconds": 0.0,
            "prepare_seconds": 0.0,
            "peak_bytes": 1,
            "steps": 5,
            "ended_early": False,
            "events": (),
            "version": Result.VERSION,
        }
        return Result(**{**nothing, **numbers, **more, **values})

    return make


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


@pytest.fixture
def bucket() -> Iterator[Any]:
    """An object store in this process."""
    import fsspec

    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]

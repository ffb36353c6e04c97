"""Fixtures of the data tests: a tokenizer, a chat tokenizer, and a way to write files and prepare them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data import Data, prepare
from tunesmith.recipe import DataSection
from tunesmith.source import find_model
from tunesmith.tokenizer import TextTokenizer, load_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer(tiny_llama: Path) -> TextTokenizer:
    """A byte-level BPE of 512 entries without a chat template; start and end are <|endoftext|>."""
    return load_tokenizer(find_model(str(tiny_llama)))


@pytest.fixture(scope="session")
def chat_tokenizer(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """The same vocabulary with ChatML's control tokens and template."""
    from transformers import AutoTokenizer

    path = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(tiny_llama, path)
    backend = AutoTokenizer.from_pretrained(path)
    backend.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    backend.chat_template = CHATML
    backend.save_pretrained(path)
    return load_tokenizer(find_model(str(path)))


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

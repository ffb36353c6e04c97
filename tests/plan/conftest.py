"""Small shapes that a plan is made for; no weights, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tunesmith.plan.gpus import find_gpu
from tunesmith.plan.search import Target
from tunesmith.plan.workload import Split, Workload
from tunesmith.recipe import Recipe


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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

"""The worked example of docs/adding-an-architecture.md holds the contracts of tests/fast."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tunesmith import fast
from tunesmith.errors import ModelError
from tunesmith.fast import families

PAGE = (Path(__file__).parents[2] / "docs" / "adding-an-architecture.md").read_text(encoding="utf-8")
FUNCTION, ENTRY, CONFIG = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
WINDOW = 6
SMALL = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
LLAMA = {**SMALL, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}


def build() -> Any:
    """The page's tiny model, with random weights."""
    configs: dict[str, tuple[str, dict[str, Any]]] = {}
    exec(CONFIG, {"CONFIGS": configs, "_LLAMA": LLAMA, "WINDOW": WINDOW})
    ((kind, settings),) = configs.values()
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(bos_token_id=0, eos_token_id=0, **settings)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the page's code stood in families.py."""
    table = dict(families.FAMILIES)
    names = {**vars(families), "FAMILIES": table}
    exec(FUNCTION + ENTRY, names)
    monkeypatch.setattr(families, "FAMILIES", table)


def documents() -> list[tuple[np.ndarray[Any, Any], None]]:
    """Shorter and longer than the window."""
    random = np.random.default_rng(0)
    return [(random.integers(0, 96, length + 1), None) for length in (1, WINDOW, WINDOW + 1, 19, 31)]


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


def test_it_is_refused_before() -> None:
    with pytest.raises(ModelError, match=r"^Phi3ForCausalLM: no fast path for this structure\. Supported: "):
        fast.apply(build())


@pytest.mark.usefixtures("added")
def test_packed_equals_every_document_alone() -> None:
    model = build()
    total = torch.zeros(())
    for ids, _ in documents():
        tokens = torch.as_tensor(ids)[None]
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0].float()
        total = total + torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum")
    (total / 64).backward()
    expected = gradients(model)

    fast.apply(model)
    loss = model(flat=fast.flatten(documents()), denominator=64.0).loss
    loss.backward()

    torch.testing.assert_close(loss, total / 64, rtol=1e-6, atol=1e-6)
    found = gradients(model)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())

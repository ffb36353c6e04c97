"""The self-test passes on sound models, sees each kind of fault, and leaves everything as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tunesmith import fast, selftest
from tunesmith.data.tokens.documents import TokenizedDocuments
from tunesmith.errors import ModelError
from tunesmith.fast import FlatBatch
from tunesmith.models.adapters import attach_lora
from tunesmith.models.find import find_model
from tunesmith.models.load import load_model
from tunesmith.recipe import LoraSection
from tunesmith.selftest import check_invariance


@pytest.fixture(scope="module")
def documents() -> TokenizedDocuments:
    rng = np.random.default_rng(0)
    lengths = [5, 9, 14, 20, 28, 40, 3, 33]
    return TokenizedDocuments.from_lists([([0, *rng.integers(1, 500, n).tolist(), 0], None) for n in lengths])


@pytest.fixture(params=["tiny_llama", "tiny_gpt_neo"])
def model(request: pytest.FixtureRequest) -> Any:
    loaded = load_model(find_model(str(request.getfixturevalue(request.param))))
    with torch.no_grad():  # larger weights, so that attention matters to the loss
        for parameter in loaded.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    fast.apply(loaded)
    return loaded.train()


def test_a_sound_model_passes(model: Any, documents: TokenizedDocuments) -> None:
    found = check_invariance(model, documents)
    assert found.packed_difference < 1e-5
    assert found.leak_difference == 0
    assert found.gradient_difference is not None
    assert found.gradient_difference < 1e-4
    assert found.num_documents == 4
    assert found.to_json()["tolerance"]["packed"] == 1e-4


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_have_their_own_tolerance(model: Any, documents: TokenizedDocuments, precision: Any) -> None:
    found = check_invariance(model, documents, precision=precision)
    assert found.precision == precision
    assert found.gradient_difference is not None
    assert found.gradient_difference > 1e-5, "the arithmetic must really have been in 16 bits"


def test_weights_in_16_bits_are_judged_as_such(tiny_llama: Path, documents: TokenizedDocuments) -> None:
    model = load_model(find_model(str(tiny_llama)), dtype="bfloat16")
    fast.apply(model)
    assert check_invariance(model, documents, precision="fp32").precision == "bf16"


def test_with_an_adapter(tiny_llama: Path, documents: TokenizedDocuments) -> None:
    model = load_model(find_model(str(tiny_llama)))
    fast.apply(model)
    adapted = attach_lora(model, LoraSection(dropout=0.5), "lora").train()
    found = check_invariance(adapted, documents)
    assert found.gradient_difference is not None
    assert found.gradient_difference > 0


def test_without_trained_parameters_there_is_no_gradient_to_compare(model: Any, documents: TokenizedDocuments) -> None:
    model.requires_grad_(False)
    assert check_invariance(model, documents).gradient_difference is None


def _draw(*_: Any) -> None:
    torch.rand(1)


def test_everything_is_left_as_it_was(model: Any, documents: TokenizedDocuments) -> None:
    parameters = list(model.parameters())
    parameters[0].grad = torch.full_like(parameters[0], 0.5)
    module = next(part for part in model.modules() if isinstance(part, nn.Dropout | nn.LayerNorm | nn.Linear))
    module.eval()  # one module that someone froze: its mode must come back too
    modes = [part.training for part in model.modules()]
    weights = copy.deepcopy(model.state_dict())
    model.register_forward_pre_hook(_draw)
    random_state = torch.get_rng_state()
    check_invariance(model, documents)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(parameters[0].grad, torch.full_like(parameters[0], 0.5))
    assert all(parameter.grad is None for parameter in parameters[1:])


def test_few_and_masked_documents(model: Any) -> None:
    one = TokenizedDocuments.from_lists([([0, 5, 6, 7, 0], [False, False, False, True, True])])
    assert check_invariance(model, one).num_documents == 1


def test_a_long_prompt_is_skipped_to_its_targets(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "LONGEST", 16)
    ids = [0, *(1 + number % 400 for number in range(100)), 0]
    mask = [False] * 90 + [True] * 12
    found = check_invariance(model, TokenizedDocuments.from_lists([(ids, mask)]))
    assert found.num_tokens == 15


def test_nothing_to_learn_is_an_error(model: Any) -> None:
    with pytest.raises(ModelError, match="no document holds a token to learn"):
        check_invariance(model, TokenizedDocuments.from_lists([([0, 5, 0], [False, False, False])]))


class Faulty(nn.Module):
    """A model whose flat path has one fault."""

    def __init__(self, model: Any, fault: str) -> None:
        super().__init__()
        self.inner, self.fault = model, fault

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def forward(self, flat: FlatBatch | None = None, denominator: float = 1.0, **options: Any) -> Any:
        if flat is None:
            return self.inner(**options)
        if self.fault == "mean of means" and not options:
            denominator = flat.num_targets
        output = self.inner(flat=flat, denominator=denominator, **options)
        if self.fault == "leak" and output.document_loss is not None:
            output.document_loss = output.document_loss + output.document_loss.sum() * 1e-2
        if self.fault == "other arithmetic" and output.document_loss is not None:
            output.document_loss = output.document_loss * 1.001
        if self.fault == "not finite" and output.document_loss is not None:
            output.document_loss = output.document_loss * float("nan")
        return output


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("leak", "leak into each other"),
        ("mean of means", "one by one"),
        ("other arithmetic", "in a packed batch is 0.10% off"),
        ("not finite", "in a packed batch"),
    ],
)
def test_each_fault_blocks(model: Any, documents: TokenizedDocuments, fault: str, said: str) -> None:
    with pytest.raises(ModelError, match=said) as error:
        check_invariance(Faulty(model, fault), documents)
    assert "nothing was trained" in str(error.value)

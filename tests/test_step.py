"""The step that training and the plan share: its settings, optimizer, clipping and arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tunesmith.errors import TrainingError
from tunesmith.fast.optimizers.rounding import RoundingAdamW
from tunesmith.recipe import LoraSection
from tunesmith.step import (
    ReadyAdamW,
    StepSettings,
    autocast,
    clip_gradients,
    clip_gradients_in_parts,
    has_dropout,
    make_optimizer,
    prepare_model,
)


def model_of(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)).to(dtype)


def with_gradients(model: nn.Module) -> list[nn.Parameter]:
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return list(model.parameters())


def test_every_setting_is_the_plans(new_plan: Any) -> None:
    values: dict[str, Any] = {
        "method": "lora",
        "precision": "bf16",
        "dtype": "bfloat16",
        "optimizer": "adamw8bit",
        "gradient_checkpointing": True,
        "offload": "layers",
        "compile": True,
        "lora": LoraSection(rank=3),
        "learning_rate": 1e-3,
        "weight_decay": 0.3,
        "max_grad_norm": 0.7,
        "seed": 99,
    }
    settings = StepSettings.of(new_plan(**values))
    assert {**vars(settings)} == {**values, "fast": True}
    assert not any(getattr(settings, name) == getattr(StepSettings(), name) for name in values)


def test_only_matrices_decay_and_only_what_trains_is_updated() -> None:
    model = model_of()
    model[0].requires_grad_(False)
    optimizer = make_optimizer(model.parameters(), StepSettings(weight_decay=0.1, learning_rate=3e-4))
    matrices, vectors = optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert [id(p) for p in matrices["params"]] == [id(model[2].weight)]
    assert [id(p) for p in vectors["params"]] == [id(p) for p in (model[1].weight, model[1].bias, model[2].bias)]
    assert all(group["lr"] == 3e-4 for group in optimizer.param_groups)


def test_the_fused_kernel_updates_float32_and_bfloat16_is_rounded_at_random() -> None:
    fused = make_optimizer(model_of().parameters(), StepSettings())
    assert isinstance(fused, torch.optim.AdamW)
    assert all(group["fused"] and not group["amsgrad"] for group in fused.param_groups)
    rounding = make_optimizer(model_of(torch.bfloat16).parameters(), StepSettings(seed=11))
    assert isinstance(rounding, RoundingAdamW)
    assert rounding.seed == 11


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_state_is_there_before_step_1(dtype: torch.dtype) -> None:
    model = model_of(dtype)
    optimizer = make_optimizer(model.parameters(), StepSettings())
    assert set(optimizer.state) == set(model.parameters())
    addresses = {p: optimizer.state[p]["exp_avg"].data_ptr() for p in model.parameters()}
    with_gradients(model)
    optimizer.step()
    assert {p: optimizer.state[p]["exp_avg"].data_ptr() for p in model.parameters()} == addresses
    optimizer.begin()  # type: ignore[attr-defined]
    assert not any(tensor.any() for state in optimizer.state.values() for tensor in state.values())
    assert {p: optimizer.state[p]["exp_avg"].data_ptr() for p in model.parameters()} == addresses


def test_a_state_that_never_fits_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def full(self: Any, parameter: Any) -> Any:
        tried.append(parameter)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(ReadyAdamW, "new_state", full)
    with pytest.raises(TrainingError, match=r"does not fit in memory. Set train.method: lora"):
        make_optimizer(model_of().parameters(), StepSettings())
    assert len(tried) == 2


@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_clipping_in_parts_is_clipping_the_whole(max_norm: float) -> None:
    whole, parts = with_gradients(model_of()), with_gradients(model_of())
    expected = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in whole if p.grad is not None]))
    seen: list[int | None] = []
    torch.testing.assert_close(clip_gradients(whole, max_norm), expected)
    torch.testing.assert_close(clip_gradients_in_parts([parts[:2], parts[2:]], max_norm, seen.append), expected)
    assert seen == [0, 1, None]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    left = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in whole if p.grad is not None]))
    torch.testing.assert_close(left, torch.minimum(expected, torch.tensor(max_norm)))


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_precision_is_that_of_products(precision: str, dtype: torch.dtype) -> None:
    with autocast(precision, "cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_a_plain_trainer_keeps_the_layers_of_transformers(llama: Any) -> None:
    prepare_model(llama, StepSettings(fast=False))
    assert not any("forward" in vars(module) for module in llama.modules())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_checkpointing_recomputes_what_it_computed(method: Any, llama: Any) -> None:
    """With an adapter the input needs a gradient, or nothing would be computed again."""
    from tunesmith import fast

    model = prepare_model(llama, StepSettings(method=method, gradient_checkpointing=True))
    calls = []
    llama.model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: calls.append(1))
    batch = fast.flatten([([1, 2, 3, 4, 5], None)])
    model(flat=batch, denominator=1.0).loss.backward()
    assert len(calls) == 2
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.fixture
def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config)


def test_a_learning_rate_on_the_device_moves_weights_as_the_number_does() -> None:
    """A stand-in on the CPU for the rates of a GPU, and a rate that float32 holds exactly."""
    torch.manual_seed(0)
    start, settings = torch.randn(8, 4), StepSettings(learning_rate=2**-8, weight_decay=0.1)
    ends = []
    for on_device in (False, True):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = make_optimizer([parameter], settings)
        assert isinstance(optimizer, ReadyAdamW)
        if on_device:
            optimizer._rates = [torch.zeros(())]
        for step in range(1, 4):
            parameter.grad = torch.full_like(parameter, float(step))
            optimizer.param_groups[0]["lr"] = 2.0 ** -(7 + step)
            optimizer.step()
        (group,) = optimizer.state_dict()["param_groups"]
        assert (group["lr"], group["capturable"]) == (2.0**-10, False), "checkpoints hold plain numbers"
        ends.append(parameter.detach())
    assert torch.equal(*ends)


def test_dropout_is_seen_in_the_configuration_or_the_adapter() -> None:
    from transformers import GPTNeoConfig, LlamaConfig

    none = {"embed_dropout": 0.0, "attention_dropout": 0.0, "resid_dropout": 0.0}
    assert not has_dropout(LlamaConfig())
    assert not has_dropout(GPTNeoConfig(**none))
    assert has_dropout(GPTNeoConfig(**{**none, "resid_dropout": 0.1}))
    assert has_dropout(LlamaConfig(), LoraSection(dropout=0.1))
    assert not has_dropout(LlamaConfig(), LoraSection())

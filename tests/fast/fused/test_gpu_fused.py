"""Layers in few launches on a GPU: as near to float32 as the layers they stand for, the same bits twice, in a graph."""

import dataclasses

import pytest
import torch

from tunesmith import fast
from tunesmith.fast.device import Device
from tunesmith.fast.fused import adapted
from tunesmith.recipe import LoraSection
from tunesmith.step import StepSettings, prepare_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
FAMILIES = ["gpt-neo", "gpt2", "llama", "llama-untied-bias", "mistral", "qwen2"]
LENGTHS = (1, 2, 5, 17, 31, 31, 40, 40, 63)


def run(model, documents, device, *, dtype=torch.bfloat16):
    fast.apply(model, device=device)
    batch = fast.flatten(documents).to("cuda")
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        loss = model(flat=batch, denominator=float(batch.num_targets)).loss
    loss.backward()
    return loss.item(), {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}


def here(**more):
    return dataclasses.replace(Device.of(torch.device("cuda")), **more)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
def test_as_near_to_float32_as_before(name, held, build, documents_of):
    documents = documents_of(LENGTHS, masked=True)
    exact, true = run(build(name).cuda(), documents, here(fused=False), dtype=torch.float32)
    _, before = run(build(name).to(held).cuda(), documents, here(fused=False))
    loss, now = run(build(name).to(held).cuda(), documents, here())
    assert loss == pytest.approx(exact, rel=3e-3)
    for key in true:
        allowed = 2.0 * (before[key] - true[key]).norm() + 0.01 * true[key].norm() + 1e-6
        assert (now[key] - true[key]).norm() <= allowed, key


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_bits_twice(name, build, documents_of):
    documents = documents_of(LENGTHS * 8, masked=True)
    (loss, first), (other, second) = (run(build(name).cuda(), documents, here()) for _ in range(2))
    assert loss == other
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["gpt-neo", "llama"])
def test_a_captured_step_sees_new_weights(name, build, documents_of):
    model = build(name).cuda()
    fast.apply(model)
    batch = fast.flatten(documents_of(LENGTHS)).to("cuda")
    denominator = torch.tensor(float(batch.num_targets), device="cuda")

    def step():
        for parameter in model.parameters():
            parameter.grad = None
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(flat=batch, denominator=denominator).loss
        loss.backward()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    captured = {key: parameter.grad for key, parameter in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    graph.replay()
    torch.cuda.synchronize()
    replayed, gradients = loss.item(), {key: gradient.clone() for key, gradient in captured.items()}
    assert step().item() == replayed
    assert all(torch.equal(p.grad, gradients[key]) for key, p in model.named_parameters())


@pytest.mark.parametrize("held", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [4, 16])
@pytest.mark.parametrize("few_rows", [0, 4096])
def test_adapters(held, rank, few_rows, build, documents_of, monkeypatch):
    monkeypatch.setattr(adapted, "FEW_ROWS", few_rows)
    documents, found = documents_of(LENGTHS, masked=True), []
    for device, bf16 in ((here(fused=False), False), (here(fused=False), True), (here(), True), (here(), True)):
        settings = StepSettings(method="lora", lora=LoraSection(rank=rank, alpha=2 * rank))
        model = build("llama").to(getattr(torch, held) if bf16 else torch.float32).cuda()
        model = prepare_model(model, settings, device)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape) * 0.3)
        batch = fast.flatten(documents).to("cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=bf16):
            loss = model(flat=batch, denominator=float(batch.num_targets)).loss
        loss.backward()
        found.append((loss.item(), {key: p.grad for key, p in model.named_parameters() if p.grad is not None}))
    (exact, true), (_, before), (loss, now), (other, again) = found
    assert loss == pytest.approx(exact, rel=5e-3)
    assert other == loss
    for key in true:
        allowed = 2.0 * (before[key] - true[key]).norm() + 0.02 * true[key].norm() + 1e-6
        assert (now[key] - true[key]).norm() <= allowed, key
        assert torch.equal(again[key], now[key]), key

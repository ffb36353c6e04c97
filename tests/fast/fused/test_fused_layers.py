"""Layers in few launches = layers as they were: loss and gradients, on a CPU by the references of the kernels."""

import copy
from functools import partial

import pytest
import torch

from tunesmith import fast
from tunesmith.compat import enable_checkpointing, quiet_transformers
from tunesmith.fast import cross_entropy
from tunesmith.fast.cross_entropy import Head, Workspace, linear_cross_entropy, plain_logits, token_losses
from tunesmith.fast.device import Device
from tunesmith.fast.fused import adapted as fused_adapted
from tunesmith.fast.fused import stream

EAGER, FUSED = Device("cpu"), Device("cpu", fused=True)
FAMILIES = ["gpt-neo", "gpt2", "gpt2-scaled", "llama", "llama-untied-bias", "mistral", "qwen2"]


@pytest.fixture
def runs_fused(monkeypatch):
    """How many layers have run in few launches."""
    calls = []
    original = stream.Stream.layer

    def spy(self, layer, *args):
        calls.append(layer)
        return original(self, layer, *args)

    monkeypatch.setattr(stream.Stream, "layer", spy)
    return calls


def loss_of(model, documents, *, bf16=True, **more):
    batch = fast.flatten(documents)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        return model(flat=batch, denominator=float(batch.num_targets), **more).loss


@pytest.mark.parametrize("name", FAMILIES)
def test_exactly_as_before_where_nothing_is_rounded(
    name, build, documents_of, take_gradients, assert_close_gradients, runs_fused, monkeypatch
):
    monkeypatch.setattr(stream, "HALF", (torch.float32,))
    found = []
    for device in (EAGER, FUSED):
        model = build(name)
        fast.apply(model, device=device)
        loss = loss_of(model, documents_of(masked=True), bf16=False)
        loss.backward()
        found.append((loss.detach(), take_gradients(model)))
    assert len(runs_fused) == 2
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-6, atol=0)
    assert_close_gradients(found[1][1], found[0][1])


@pytest.mark.parametrize("name", ["gpt-neo", "gpt2", "llama-untied-bias", "qwen2"])
@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
def test_as_near_to_float32_as_before_in_bf16(name, held, build, documents_of, take_gradients, runs_fused):
    documents, found = documents_of(masked=True), []
    for device, bf16 in ((EAGER, False), (EAGER, True), (FUSED, True)):
        model = build(name).to(held if bf16 else torch.float32)
        fast.apply(model, device=device)
        loss = loss_of(model, documents, bf16=bf16 and held == torch.float32)
        loss.backward()
        assert all(parameter.grad.dtype == parameter.dtype for parameter in model.parameters())
        found.append((loss.item(), {key: grad.float() for key, grad in take_gradients(model).items()}))
    assert len(runs_fused) == 2
    (exact, true), (_, before), (loss, now) = found
    assert loss == pytest.approx(exact, rel=2e-3)
    for key in true:
        allowed = 2.0 * (before[key] - true[key]).norm() + 0.01 * true[key].norm() + 1e-6
        assert (now[key] - true[key]).norm() <= allowed, key


def test_copies_follow_the_optimizer(build, documents_of, runs_fused):
    """torch's fused optimizer leaves no trace in a weight's version."""
    documents, losses = documents_of(), []
    model = build("llama")
    fast.apply(model, device=FUSED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model, documents).backward()
        optimizer.step()
        fresh = build("llama")
        fresh.load_state_dict(model.state_dict())
        fast.apply(fresh, device=FUSED)
        with torch.no_grad():
            losses.append(loss_of(fresh, documents).item())
            assert loss_of(model, documents).item() == losses[-1]
    assert losses[1] < losses[0]


def test_further_passes_of_a_step_make_no_copies(build, documents_of, monkeypatch, take_gradients):
    from tunesmith.fast import shadow

    writes, original = [], torch._foreach_copy_
    model = build("llama")
    fast.apply(model, device=FUSED)
    loss_of(model, documents_of())

    def counted(*lists):
        writes.append(1)
        original(*lists)

    monkeypatch.setattr(shadow.torch, "_foreach_copy_", counted)
    loss_of(model, documents_of()).backward()
    first, second = len(writes), loss_of(model, documents_of(seed=1), weights_changed=False)
    assert (first, len(writes)) == (1, 1)
    second.backward()
    summed = take_gradients(model)
    for seed in (0, 1):
        loss_of(model, documents_of(seed=seed)).backward()
    assert len(writes) == 3
    assert all(torch.equal(summed[key], gradient) for key, gradient in take_gradients(model).items())


def test_other_calls_see_the_weights_themselves(build, documents_of):
    model, plain = build("llama"), build("llama")
    ids = torch.arange(12)[None]
    fast.apply(model, device=FUSED)
    loss_of(model, documents_of())
    for changed in (model, plain):
        with torch.no_grad():
            changed.model.layers[0].mlp.up_proj.weight.mul_(1.5)
            changed.lm_head.weight.mul_(0.5)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)


@pytest.mark.parametrize("case", ["hook", "checkpointing", "float32", "other activation", "frozen key", "split"])
def test_what_is_not_known_runs_as_before(case, build, documents_of, runs_fused):
    model = build("llama", **({"hidden_act": "gelu"} if case == "other activation" else {}))
    fast.apply(model, device=FUSED)
    if case == "hook":
        model.model.layers[1].mlp.up_proj.register_forward_hook(lambda *_: None)
    if case == "checkpointing":
        enable_checkpointing(model)
    if case == "split":  # over processes, as a DTensor is
        model.model.layers[1].mlp.up_proj.weight.to_local = lambda: None
    if case == "frozen key":
        model.model.layers[0].self_attn.k_proj.weight.requires_grad_(False)
    loss_of(model, documents_of(), bf16=case != "float32").backward()
    assert runs_fused == []


def test_a_hook_set_later_is_called(build, documents_of, runs_fused):
    model, seen = build("gpt2"), []
    fast.apply(model, device=FUSED)
    loss_of(model, documents_of())
    model.transformer.h[0].mlp.register_forward_hook(lambda *_: seen.append(1))
    loss_of(model, documents_of())
    assert (len(runs_fused), seen) == (2, [])
    model.transformer.h[0].mlp.c_fc.register_forward_hook(lambda *_: seen.append(1))
    loss_of(model, documents_of())
    assert (len(runs_fused), seen) == (2, [1])


def test_dropout_stays_where_it_was(build, documents_of, runs_fused):
    found = []
    for device in (EAGER, FUSED):
        model = build("gpt2", resid_pdrop=0.3)
        fast.apply(model, device=device)
        torch.manual_seed(3)
        found.append(loss_of(model, documents_of()).item())
        model.eval()
        found.append(loss_of(model, documents_of()).item())
    assert len(runs_fused) == 4
    assert found[2:] == pytest.approx(found[:2], rel=3e-3)
    assert abs(found[0] - found[1]) > 0.02


def test_a_copied_model_has_layers_of_its_own(build, documents_of, runs_fused):
    model = build("llama")
    fast.apply(model, device=FUSED)
    before = loss_of(model, documents_of())
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.zero_()
    assert loss_of(model, documents_of()).item() == before.item()
    assert loss_of(other, documents_of()).item() != before.item()
    assert len(runs_fused) == 6


def test_restore_gives_the_model_back(build, documents_of):
    model = build("gpt-neo")
    applied = fast.apply(model, device=FUSED)
    assert "transformer.ln_f" in applied.replaced
    loss_of(model, documents_of())
    applied.restore()
    assert not any("forward" in module.__dict__ for module in model.modules())


def _aligned(weight, bias, rows):
    padded = torch.zeros(rows, weight.shape[1], dtype=weight.dtype)
    padded[: len(weight)] = weight.detach()
    if bias is None:
        return padded, None
    return padded, torch.nn.functional.pad(bias.detach(), (0, rows - len(bias)), value=9.0)


@pytest.mark.parametrize("vocabulary", [1, 7, 50, 64, 65, 131, 50_257])
@pytest.mark.parametrize(("bias", "softcap"), [(False, None), (True, None), (True, 3.0)])
def test_rows_behind_the_vocabulary_change_nothing(vocabulary, bias, softcap, monkeypatch):
    """Numbers are small whole ones, so that sums are exact in any order: only the softmax is rounded, and it sees the
    same logits."""
    monkeypatch.setattr(cross_entropy, "CPU_CHUNK", 8)
    monkeypatch.setattr(cross_entropy, "CPU_CHUNK_BYTES", 0)
    torch.manual_seed(0)
    rows = -(-vocabulary // 64) * 64
    hidden = torch.randint(-3, 4, (20, 8)).float().requires_grad_()
    weight = torch.randint(-3, 4, (vocabulary, 8)).float().requires_grad_()
    offset = torch.randint(-3, 4, (vocabulary,)).float().requires_grad_() if bias else None
    targets = torch.randint(0, vocabulary, (20,))
    targets[4] = cross_entropy.IGNORED
    leaves = [leaf for leaf in (hidden, weight, offset) if leaf is not None]
    found = []
    for aligned in (None, _aligned(weight, offset, rows)):
        head = Head(weight, offset, softcap, aligned=aligned)
        loss = linear_cross_entropy(hidden, head, targets, 5.0, Workspace())
        with torch.no_grad():
            scored = token_losses(hidden, partial(plain_logits, head=head, workspace=Workspace()), softcap, targets)
        found.append((loss.detach(), *scored, *torch.autograd.grad(loss, leaves)))
    exact, others = found[0], found[1]
    assert all(torch.equal(one, other) for one, other in zip(exact[:3], others[:3], strict=True))
    for one, other in zip(exact[3:], others[3:], strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def _with_adapters(model, targets, rank=3, **settings):
    import peft

    torch.manual_seed(1)
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, **settings)
    with quiet_transformers():
        adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return adapted


@pytest.mark.parametrize("name", ["gpt-neo", "llama", "llama-untied-bias", "qwen2"])
@pytest.mark.parametrize("targets", ["all-linear", "qv"])
@pytest.mark.parametrize(("rank", "few_rows"), [(3, 4096), (8, 4096), (8, 0)])
def test_adapters_inside_fused_layers(
    name, targets, rank, few_rows, build, documents_of, take_gradients, assert_close_gradients, runs_fused, monkeypatch
):
    monkeypatch.setattr(stream, "HALF", (torch.float32,))
    monkeypatch.setattr(fused_adapted, "FEW_ROWS", few_rows)
    found = []
    for device in (EAGER, FUSED):
        model = build(name)
        fast.apply(model, device=device)
        adapted = _with_adapters(model, ["q_proj", "v_proj"] if targets == "qv" else targets, rank)
        fast.fuse_adapters(adapted, device=device)
        loss = loss_of(adapted, documents_of(masked=True), bf16=False)
        loss.backward()
        found.append((loss.detach(), take_gradients(adapted)))
    assert len(runs_fused) == 2
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-6, atol=0)
    assert_close_gradients(found[1][1], found[0][1])


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [3, 8])
def test_adapters_in_bf16(held, rank, build, documents_of, take_gradients, runs_fused):
    found = []
    for device in (EAGER, FUSED):
        model = build("llama").to(held)
        fast.apply(model, device=device)
        adapted = _with_adapters(model, "all-linear", rank)
        fast.fuse_adapters(adapted, device=device)
        loss = loss_of(adapted, documents_of(masked=True))
        loss.backward()
        found.append((loss.item(), take_gradients(adapted)))
    assert len(runs_fused) == 2
    assert found[1][0] == pytest.approx(found[0][0], rel=3e-3)
    for key, gradient in found[0][1].items():
        assert (found[1][1][key] - gradient).norm() <= 0.1 * gradient.norm() + 1e-6, key


@pytest.mark.parametrize("case", ["disabled", "merged", "dropout"])
def test_adapters_that_cannot_run_inside_run_as_before(case, build, documents_of, runs_fused):
    model = build("llama")
    fast.apply(model, device=FUSED)
    adapted = _with_adapters(model, "all-linear", lora_dropout=0.1 if case == "dropout" else 0.0)
    fast.fuse_adapters(adapted, device=FUSED)
    if case != "dropout":
        loss_of(adapted, documents_of())
        assert len(runs_fused) == 2
    if case == "merged":
        adapted.merge_adapter()
    if case == "disabled":
        with adapted.disable_adapter():
            loss_of(adapted, documents_of())
    else:
        loss_of(adapted, documents_of())
    assert len(runs_fused) == (0 if case == "dropout" else 2)

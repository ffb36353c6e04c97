"""fast = transformers' eager per document, forward and backward, for every architecture."""

import copy

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from tunesmith import fast


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
def test_loss_and_gradients_equal_eager_per_document(
    architecture, masked, build, documents_of, reference, take_gradients, assert_close_gradients
):
    model, documents = build(architecture), documents_of(masked=masked)
    denominator = 37.0
    expected = torch.stack(reference(model, documents))
    (expected.sum() / denominator).backward()
    expected_gradients = take_gradients(model)

    applied = fast.apply(model)
    loss = model(flat=fast.flatten(documents), denominator=denominator).loss
    loss.backward()

    torch.testing.assert_close(loss, expected.sum() / denominator, rtol=1e-6, atol=1e-6)
    assert_close_gradients(take_gradients(model), expected_gradients)
    with torch.no_grad():
        output = model(flat=fast.flatten(documents), denominator=denominator, flat_metrics=True)
    torch.testing.assert_close(output.document_loss, expected.double(), rtol=1e-5, atol=1e-5)
    applied.restore()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_apply_then_restore_leaves_the_model_untouched(architecture, attention, build, documents_of):
    if attention == "sdpa" and architecture.startswith(("gpt-neo", "gptj", "gemma2")) and architecture != "gpt-neox":
        pytest.skip("transformers has no SDPA for it")
    model = build(architecture, attention=attention)
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    applied = fast.apply(model)
    assert applied.replaced
    model(flat=fast.flatten(documents_of()), denominator=1).loss.backward()
    model.zero_grad(set_to_none=True)
    applied.restore()
    assert applied.replaced == []
    for name, module in model.named_modules():
        assert module.__dict__.keys() == before[name].keys()
        assert "forward" not in module.__dict__
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_one_document_changes_nothing_in_another(architecture, build, documents_of):
    model = build(architecture)
    fast.apply(model)
    hidden = []
    model.base_model.register_forward_hook(lambda module, args, output: hidden.append(output.last_hidden_state[0]))
    documents = documents_of()
    changed = copy.deepcopy(documents)
    changed[5] = ((changed[5][0] + 1) % 96, None)
    batches = [fast.flatten(documents), fast.flatten(changed)]
    with torch.no_grad():
        outputs = [model(flat=batch, denominator=1, flat_metrics=True) for batch in batches]
    position = batches[0].order.index(5)
    begin, end = batches[0].cu_seqlens[position].item(), batches[0].cu_seqlens[position + 1].item()
    others = torch.ones(batches[0].num_tokens, dtype=torch.bool)
    others[begin:end] = False
    assert torch.equal(hidden[0][others], hidden[1][others])
    assert not torch.equal(hidden[0][begin:end], hidden[1][begin:end])
    same = [number for number in range(len(documents)) if number != 5]
    assert torch.equal(outputs[0].document_loss[same], outputs[1].document_loss[same])
    assert outputs[0].document_loss[5] != outputs[1].document_loss[5]


def test_generation_and_plain_forward_are_as_before(architecture, build):
    model = build(architecture).eval()
    ids = torch.tensor([[5, 9, 3, 7, 1, 2, 4, 8]])

    def outputs():
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        text = model.generate(input_ids=ids, max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=None)
        return logits, text

    before = outputs()
    fast.apply(model)
    after = outputs()
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize("held", [torch.bfloat16, torch.float32])
def test_bfloat16_products_stay_near_float32(held, architecture, build, documents_of, take_gradients):
    """With weights held in bfloat16, and with float32 ones under autocast."""
    model, batch = build(architecture), fast.flatten(documents_of())
    fast.apply(model)
    exact = model(flat=batch, denominator=batch.num_targets).loss
    exact.backward()
    expected = take_gradients(model)
    model.to(held)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=held == torch.float32):
        loss = model(flat=batch, denominator=batch.num_targets).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert abs(loss.item() - exact.item()) < 0.02 * exact.item()
    for name, gradient in take_gradients(model).items():
        assert gradient.dtype == held
        close = torch.nn.functional.cosine_similarity(gradient.float().flatten(), expected[name].flatten(), dim=0)
        assert close > 0.98 or expected[name].abs().max() < 1e-6, name


def test_the_sum_of_the_layers_is_float32_whatever_the_weights_are_held_in(architecture, build, documents_of):
    """Under autocast; the same weights, all of them numbers of bfloat16."""
    model, batch = build(architecture).to(torch.bfloat16), fast.flatten(documents_of())
    fast.apply(model)
    seen = []
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    layers[-1].register_forward_hook(lambda module, args, output: seen.append(output))
    losses = []
    for held in (torch.bfloat16, torch.float32):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses.append(model.to(held)(flat=batch, denominator=batch.num_targets).loss)
        losses[-1].backward()
    assert {(out if torch.is_tensor(out) else out[0]).dtype for out in seen} == {torch.float32}
    assert abs(losses[0] - losses[1]) < 1e-3 * losses[1]


def test_gradient_checkpointing_changes_nothing(
    architecture, build, documents_of, take_gradients, assert_close_gradients
):
    model, batch = build(architecture), fast.flatten(documents_of())
    fast.apply(model)
    model(flat=batch, denominator=9).loss.backward()
    expected = take_gradients(model)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    attention_calls = []
    for module in model.modules():
        if type(module).__name__.endswith("Attention"):
            module.register_forward_hook(lambda *args: attention_calls.append(1))
    loss = model(flat=batch, denominator=9).loss
    forward_calls = len(attention_calls)
    loss.backward()
    assert len(attention_calls) == 2 * forward_calls > 0
    assert_close_gradients(take_gradients(model), expected, relative=1e-6)

"""What apply promises around the loss: refusals, copies, adapters, tied weights, dropout, data-parallel hooks."""

import copy
import itertools
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertLMHeadModel, FalconConfig, FalconForCausalLM, GPT2Config, GPT2LMHeadModel

from tunesmith import fast
from tunesmith.errors import ModelError
from tunesmith.fast.cross_entropy import CPU_CHUNK


def loss_of(model, documents, denominator=10.0):
    return model(flat=fast.flatten(documents), denominator=denominator).loss


def test_unknown_architecture_is_refused():
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, is_decoder=True
    )
    with pytest.raises(ModelError, match=r"BertLMHeadModel.*Supported: LlamaForCausalLM"):
        fast.apply(BertLMHeadModel(config))


def test_a_class_of_the_same_name_from_elsewhere_is_refused(build):
    model = build("llama")
    stranger = type("LlamaForCausalLM", (type(model),), {"__module__": "somewhere.modeling"})
    model.__class__ = stranger
    with pytest.raises(ModelError, match="no fast path"):
        fast.apply(model)


def test_unexpected_structure_is_refused_and_nothing_is_replaced(build):
    model = build("llama")
    attention = model.model.layers[1].self_attn
    attention.qkv_proj = attention.q_proj
    del attention.q_proj
    with pytest.raises(ModelError, match="q_proj"):
        fast.apply(model)
    assert not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (FalconForCausalLM, FalconConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, alibi=True)),
        (GPT2LMHeadModel, GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=9, add_cross_attention=True)),
    ],
    ids=["alibi", "cross-attention"],
)
def test_settings_that_change_attention_are_refused(model_class, config):
    with pytest.raises(ModelError, match="no fast path, because"):
        fast.apply(model_class(config))


def test_applying_twice_is_refused(build):
    model = build("llama")
    applied = fast.apply(model)
    with pytest.raises(ModelError, match="already applied"):
        fast.apply(model)
    applied.restore()
    fast.apply(model)


def test_document_longer_than_the_position_table_is_refused(build, documents_of):
    model = build("gpt-neo")
    fast.apply(model)
    assert loss_of(model, documents_of((64,))).isfinite()
    with pytest.raises(ModelError, match=r"65 tokens.*max_length"):
        loss_of(model, documents_of((65,)))


def test_a_copy_uses_its_own_weights(build, documents_of):
    model = build("llama")
    fast.apply(model)
    before = loss_of(model, documents_of()).item()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert loss_of(model, documents_of()).item() == before
    assert loss_of(twin, documents_of()).item() != before


def test_signature_of_forward_is_the_original(build):
    import inspect

    model = build("llama")
    before = list(inspect.signature(model.forward).parameters)
    fast.apply(model)
    assert list(inspect.signature(model.forward).parameters) == before


def test_order_of_documents_does_not_matter(build, documents_of):
    model, documents = build("llama"), documents_of()
    fast.apply(model)
    with torch.no_grad():
        forward = model(flat=fast.flatten(documents), denominator=1, flat_metrics=True).document_loss
        backward = model(flat=fast.flatten(documents[::-1]), denominator=1, flat_metrics=True).document_loss
    torch.testing.assert_close(forward, backward.flip(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "llama-untied-bias", "gpt-neo", "gpt2"])
def test_micro_batches_equal_one_batch(name, build, documents_of, take_gradients, assert_close_gradients):
    model, documents = build(name), documents_of(masked=True)
    fast.apply(model)
    loss_of(model, documents).backward()
    expected = take_gradients(model)
    for part in (documents[:2], documents[2:3], documents[3:]):
        loss_of(model, part).backward()
    assert_close_gradients(take_gradients(model), expected)


@pytest.mark.parametrize("name", ["llama", "llama-untied-bias"])
def test_micro_batches_without_any_target_add_nothing(name, build, documents_of, take_gradients):
    model, documents = build(name), documents_of(masked=True)
    fast.apply(model)
    loss = loss_of(model, documents[1:2])
    loss.backward()
    assert loss.item() == 0.0
    found = take_gradients(model)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert not any(gradient.any() for gradient in found.values())


def test_tied_weight_gets_one_gradient(build, documents_of):
    model = build("llama")
    fast.apply(model)
    calls = []
    model.lm_head.weight.register_hook(lambda gradient: calls.append(gradient.shape))
    model.lm_head.weight.register_post_accumulate_grad_hook(lambda parameter: calls.append("accumulated"))
    loss_of(model, documents_of()).backward()
    assert calls == [model.lm_head.weight.shape, "accumulated"]


def test_padding_row_of_a_tied_embedding_gets_the_heads_gradient_only(
    build, documents_of, reference, take_gradients, assert_close_gradients
):
    model, documents = build("llama"), documents_of()
    model.model.embed_tokens.padding_idx = int(documents[-1][0][3])
    torch.stack(reference(model, documents)).sum().backward()
    expected = take_gradients(model)
    fast.apply(model)
    loss_of(model, documents, 1.0).backward()
    assert_close_gradients(take_gradients(model), expected)


def test_frozen_embedding_and_frozen_layers(build, documents_of, reference, take_gradients, assert_close_gradients):
    for frozen in ("embed_tokens", "layers.0"):
        model, documents = build("llama"), documents_of()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen not in name)
        torch.stack(reference(model, documents)).sum().backward()
        expected = take_gradients(model)
        fast.apply(model)
        loss_of(model, documents, 1.0).backward()
        assert_close_gradients(take_gradients(model), expected)


def lora(model, targets, **settings):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False, **settings)
    torch.manual_seed(1)
    with warnings.catch_warnings():
        # peft asks transformers for an attribute under its former name
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(model, config)


@pytest.mark.parametrize(
    ("name", "targets", "more"),
    [
        ("llama", "all-linear", {}),
        ("gpt-neo", "all-linear", {}),
        ("gpt2", ["c_attn", "c_fc"], {"fan_in_fan_out": True}),
        ("llama-untied-bias", ["q_proj", "lm_head"], {}),
        ("llama-untied-bias", ["q_proj"], {"modules_to_save": ["lm_head"]}),
        ("llama-untied-bias", ["q_proj", "embed_tokens"], {}),
    ],
    ids=["llama", "gpt-neo", "gpt2", "head-adapted", "head-saved", "embedding-adapted"],
)
@pytest.mark.parametrize("fused", [False, True], ids=["chain", "fused"])
def test_lora_through_peft_equals_eager(
    name, targets, more, fused, build, documents_of, reference, take_gradients, assert_close_gradients
):
    model, documents = build(name), documents_of()
    fast.apply(model)
    peft_model = lora(model, targets, **more).train()
    torch.stack(reference(peft_model, documents)).sum().backward()
    expected = take_gradients(peft_model)
    if fused:
        fast.fuse_adapters(peft_model)
    loss = peft_model(flat=fast.flatten(documents), denominator=1.0).loss
    loss.backward()
    assert_close_gradients(take_gradients(peft_model), expected)


def test_lora_dropout_is_honoured_and_repeats_with_the_seed(build, documents_of):
    model, documents = build("llama"), documents_of()
    fast.apply(model)
    model = lora(model, "all-linear", lora_dropout=0.5)
    assert_dropout(model, documents)


@pytest.mark.parametrize(
    ("name", "dropout"),
    [
        ("llama", {"attention_dropout": 0.5}),
        ("gpt2", {"attn_pdrop": 0.5}),
        ("gpt2", {"resid_pdrop": 0.5}),
        ("gpt2", {"embd_pdrop": 0.5}),
        ("gpt-neo", {"attention_dropout": 0.5}),
        ("gpt-neo", {"resid_dropout": 0.5}),
        ("gptj", {"attn_pdrop": 0.5}),
        ("gpt-neox", {"attention_dropout": 0.5}),
        ("gemma2", {"attention_dropout": 0.5}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_dropout_is_honoured_and_repeats_with_the_seed(name, dropout, build, documents_of):
    model = build(name, **dropout)
    fast.apply(model)
    assert_dropout(model, documents_of())


@pytest.mark.parametrize(
    ("name", "dropout"),
    [
        ("gpt2", {"resid_pdrop": 0.5, "embd_pdrop": 0.3}),
        ("gptj", {"resid_pdrop": 0.5, "embd_pdrop": 0.3}),
        ("gpt-neo", {"resid_dropout": 0.5, "embed_dropout": 0.3}),
        ("gpt-neox", {"hidden_dropout": 0.5}),
        ("falcon-heads", {"hidden_dropout": 0.5}),
    ],
    ids=["gpt2", "gptj", "gpt-neo", "gpt-neox", "falcon-heads"],
)
def test_dropout_of_one_document_falls_where_eager_drops(name, dropout, build, documents_of, reference):
    model, documents = build(name, **dropout), documents_of((23,))
    torch.manual_seed(3)
    expected = reference(model, documents)[0]
    fast.apply(model)
    torch.manual_seed(3)
    torch.testing.assert_close(loss_of(model, documents, 1.0), expected, rtol=1e-5, atol=0)


def assert_dropout(model, documents):
    def loss(seed):
        torch.manual_seed(seed)
        return loss_of(model, documents).item()

    model.train()
    first, again, other = loss(1), loss(1), loss(2)
    model.eval()
    without = loss(1)
    assert first == again
    assert len({first, other, without}) == 3
    assert without == loss(2)


def test_metrics_and_loss_agree(build, documents_of):
    model, documents = build("gpt-neo"), documents_of(masked=True)
    fast.apply(model)
    batch = fast.flatten(documents)
    with torch.no_grad():
        output = model(flat=batch, denominator=batch.num_targets, flat_metrics=True)
        plain = model(flat=batch, denominator=batch.num_targets)
    trained = model(flat=batch, denominator=batch.num_targets).loss
    assert plain.num_correct is None
    torch.testing.assert_close(output.loss, trained.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        output.document_loss.sum() / batch.num_targets, trained.detach().double(), rtol=1e-6, atol=0
    )
    assert 0 <= output.num_correct.item() <= batch.num_targets


def test_training_reduces_the_loss_without_the_logits(build, documents_of, monkeypatch):
    """No tensor of [tokens, vocabulary] is ever made: the largest has a chunk of rows."""
    monkeypatch.setattr(fast.cross_entropy, "CPU_CHUNK_BYTES", 0)
    model, documents = build("llama", vocab_size=4096), documents_of((40,) * 20)
    fast.apply(model)
    sizes: list[Any] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            sizes.extend(
                t.numel()
                for t in (result if isinstance(result, tuple | list) else [result])
                if isinstance(t, torch.Tensor)
            )
            return result

    with Watch():
        loss_of(model, documents).backward()
    assert max(sizes) <= CPU_CHUNK * 4096 < 800 * 4096


def test_data_parallel_hooks_see_every_gradient(build, documents_of, take_gradients, assert_close_gradients, tmp_path):
    import torch.distributed as dist

    model, documents = build("llama"), documents_of()
    fast.apply(model)
    loss_of(model, documents).backward()
    expected = {f"module.{name}": gradient for name, gradient in take_gradients(model).items()}
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        for _ in range(2):
            parallel(flat=fast.flatten(documents), denominator=10.0).loss.backward()
            assert_close_gradients(take_gradients(parallel), expected)
    finally:
        dist.destroy_process_group()


def test_optimizer_steps_follow_eager(build, documents_of, reference):
    """Ten AdamW steps on the fast path and on eager give the same losses."""
    losses = []
    for is_fast in (False, True):
        model = build("gpt-neo")
        if is_fast:
            fast.apply(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for step in range(10):
            documents = documents_of(seed=step)
            total = sum(len(ids) - 1 for ids, _ in documents)
            loss = loss_of(model, documents, total) if is_fast else sum(reference(model, documents)) / total
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    for eager, quick in itertools.zip_longest(losses[:10], losses[10:]):
        assert quick == pytest.approx(eager, rel=1e-4)

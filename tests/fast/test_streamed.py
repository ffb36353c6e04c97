"""Frozen layers that stay in RAM: the same bits as layers that are all there, two on the device, copies counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.errors import ModelError
from tunesmith.fast.batches.layout import flatten
from tunesmith.fast.streamed import PLACES, LayerStream, _Held, stream_layers, streamed_bytes
from tunesmith.models.load import load_model
from tunesmith.step import StepSettings, autocast, has_dropout, make_optimizer, prepare_model

DOCUMENTS = [(torch.arange(5 + n, 30 + n).numpy(), torch.ones(25, dtype=torch.bool).numpy()) for n in range(6)]
NUM_LAYERS = 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Five layers each, by architecture."""
    from transformers import (
        FalconConfig,
        FalconForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        GPTNeoConfig,
        GPTNeoForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
    )

    torch.manual_seed(0)
    made = {
        "llama": LlamaForCausalLM(
            LlamaConfig(
                vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=NUM_LAYERS,
                num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
            )
        ),
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=128, n_embd=32, n_layer=NUM_LAYERS, n_head=4, n_positions=64)),
        "gpt_neo": GPTNeoForCausalLM(
            GPTNeoConfig(
                vocab_size=128, hidden_size=32, intermediate_size=64, num_layers=NUM_LAYERS, num_heads=4,
                attention_types=[[["global"], NUM_LAYERS]], embed_dropout=0.0, attention_dropout=0.0,
                resid_dropout=0.0, max_position_embeddings=64,
            )
        ),
        "falcon": FalconForCausalLM(
            FalconConfig(
                vocab_size=128, hidden_size=32, num_hidden_layers=NUM_LAYERS, num_attention_heads=4, alibi=False
            )
        ),
    }  # fmt: skip
    path = tmp_path_factory.mktemp("models")
    for name, model in made.items():
        model.save_pretrained(path / name)
    return {name: path / name for name in made}


def models(path: Path, **settings: Any) -> tuple[Any, Any, LayerStream]:
    """The same adapter on a model that is all there, and on one whose frozen layers stay in RAM."""
    quantize = settings.get("method") == "qlora"
    source = find_model_of(path)
    made = []
    for checkpointed in (settings.pop("gradient_checkpointing", False), False):
        torch.manual_seed(3)
        asked = StepSettings(**settings, gradient_checkpointing=checkpointed)
        model = prepare_model(load_model(source, quantize=quantize), asked)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05)
        made.append(model)
    resident, streamed = made
    drops = has_dropout(streamed.config, None)
    return resident, streamed, stream_layers(streamed, torch.device("cpu"), preserve_rng_state=drops)


def find_model_of(path: Path) -> Any:
    from tunesmith.models.find import ModelSource

    return ModelSource(path.name, str(path), "directory")


def steps(model: Any, precision: str = "fp32", number: int = 3) -> list[torch.Tensor]:
    """Losses, gradients and what the weights became, of a few steps of two passes."""
    optimizer = make_optimizer(model.parameters(), StepSettings(learning_rate=1e-2))
    batches, found = (flatten(DOCUMENTS[:3]), flatten(DOCUMENTS[3:])), list[torch.Tensor]()
    for step in range(number):
        torch.manual_seed(step)
        for batch in batches:
            with autocast(precision, "cpu"):
                loss = model(flat=batch, denominator=150.0).loss
            loss.backward()
            found.append(loss.detach())
        found += [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        found.append(model.eval()(flat=batches[0], denominator=75.0).loss)
    return found + [p.detach().clone() for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize(
    ("architecture", "method", "precision", "checkpointed"),
    [
        ("llama", "lora", "fp32", False),
        ("llama", "lora", "fp32", True),
        ("llama", "lora", "bf16", False),
        ("llama", "dora", "fp32", False),
        ("llama", "qlora", "fp32", False),
        ("gpt2", "lora", "fp32", False),
        ("gpt_neo", "lora", "fp32", False),
        ("falcon", "lora", "fp32", False),
    ],
)
def test_the_bits_are_those_of_a_model_that_is_all_there(
    architecture: str, method: str, precision: str, checkpointed: bool, folders: dict[str, Path]
) -> None:
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    resident, streamed, stream = models(
        folders[architecture], method=method, precision=precision, gradient_checkpointing=checkpointed
    )
    expected, found = steps(resident, precision), steps(streamed, precision)
    assert len(expected) == len(found)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert bool(stream.num_copies)


def test_each_pass_copies_each_layer_twice_but_for_those_that_are_there(folders: dict[str, Path]) -> None:
    _, streamed, stream = models(folders["llama"], method="lora")
    steps(streamed, number=1)  # two passes and an evaluation
    turning = PLACES  # layers that are still there when the direction changes
    first, later = NUM_LAYERS + (NUM_LAYERS - turning), 2 * (NUM_LAYERS - turning)
    assert stream.num_copies == first + later + (NUM_LAYERS - turning)


def test_two_layers_are_on_the_device_and_the_rest_is_as_it_was(folders: dict[str, Path]) -> None:
    resident, streamed, stream = models(folders["llama"], method="lora")
    layers = streamed.get_base_model().model.layers
    assert all(len(place.buffer) == streamed_bytes(layers[0]) for place in stream._places)
    steps(streamed)
    on_device = {place.buffer.untyped_storage().data_ptr() for place in stream._places}
    there = [
        number
        for number, layer in enumerate(layers)
        if layer.self_attn.q_proj.base_layer.weight.untyped_storage().data_ptr() in on_device
    ]
    assert len(there) == PLACES
    before = dict(resident.named_parameters())
    for name, parameter in streamed.named_parameters():
        if not parameter.requires_grad:
            assert torch.equal(parameter, before[name]), name


def test_a_layer_looks_at_its_own_place_while_it_runs_and_never_after(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in RAM cannot be reached from a GPU, and a place holds another layer soon: both hold no numbers here."""
    resident, streamed, stream = models(folders["llama"], method="lora")
    load, show = stream._load, _Held.show

    def spoil(number: int, keep: Any) -> Any:
        next(place for place in stream._places if place is not keep).buffer.fill_(255)  # not a number, in float32
        return load(number, keep)

    def show_place(held: _Held, place: torch.Tensor) -> None:
        show(held, torch.full_like(place, 255) if place is held.ram else place)

    monkeypatch.setattr(stream, "_load", spoil)
    monkeypatch.setattr(_Held, "show", show_place)
    for held in stream.layers:
        held.show(held.ram)
    assert all(torch.equal(a, b) for a, b in zip(steps(resident), steps(streamed), strict=True))


def test_dropout_draws_the_same_numbers_again(folders: dict[str, Path]) -> None:
    _, streamed, _ = models(folders["gpt2"], method="lora")
    assert has_dropout(streamed.config)
    batch = flatten(DOCUMENTS)
    gradients = []
    for _ in range(2):
        torch.manual_seed(5)
        streamed.train()(flat=batch, denominator=150.0).loss.backward()
        gradients.append([p.grad.clone() for p in streamed.parameters() if p.grad is not None])
        streamed.zero_grad()
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_where_all_trains_nothing_can_stay(folders: dict[str, Path]) -> None:
    model = prepare_model(load_model(find_model_of(folders["llama"])), StepSettings())
    with pytest.raises(ModelError, match=r"train\.offload: layers: every weight trains.*train\.method: lora"):
        stream_layers(model, torch.device("cpu"), preserve_rng_state=False)

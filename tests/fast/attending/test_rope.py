"""No document's positions depend on its neighbours, whatever the rope type and however long it is."""

import copy
from pathlib import Path

import pytest
import torch

from tunesmith import fast
from tunesmith.fast.attending.rope import rotary_modules

ORIGINAL = 16
ROPES = {
    "dynamic": ({"rope_type": "dynamic", "factor": 4.0}, ORIGINAL),
    "longrope": (
        {
            "rope_type": "longrope",
            "factor": 4.0,
            "short_factor": [1.0, 1.1, 1.3, 1.6],
            "long_factor": [1.0, 2.0, 3.0, 5.0],
            "original_max_position_embeddings": ORIGINAL,
        },
        4 * ORIGINAL,
    ),
    "linear": ({"rope_type": "linear", "factor": 4.0}, 4 * ORIGINAL),
    "yarn": ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}, 4 * ORIGINAL),
    "llama3": (
        {
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": ORIGINAL,
        },
        4 * ORIGINAL,
    ),
}
LENGTHS = (1, 3, ORIGINAL - 2, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 2 * ORIGINAL, 3 * ORIGINAL, 3 * ORIGINAL + 5)
"""Fed tokens, around the length from which the frequencies change."""


def rope_of(name):
    parameters, positions = ROPES[name]
    parameters = {"rope_theta": 10_000.0, "partial_rotary_factor": 1.0, **parameters}
    return {"rope_parameters": parameters, "max_position_embeddings": positions}


def alone(model, documents):
    """Summed loss of each document in a forward pass of its own, the last token fed too, as labels are."""
    losses = []
    for ids, _ in documents:
        tokens = torch.as_tensor(ids)[None]
        logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum"))
    return torch.stack(losses)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt-neox"])
@pytest.mark.parametrize("rope", sorted(ROPES))
def test_loss_and_gradients_are_those_of_each_document_alone(
    rope, architecture, build, documents_of, take_gradients, assert_close_gradients
):
    model, documents = build(architecture, **rope_of(rope)), documents_of(LENGTHS)
    expected = alone(model, documents)
    (expected.sum() / 11).backward()
    gradients = take_gradients(model)
    fast.apply(model)
    batch = fast.flatten(documents, multiple=32)
    model(flat=batch, denominator=11).loss.backward()
    assert_close_gradients(take_gradients(model), gradients)
    with torch.no_grad():
        found = model(flat=batch, denominator=1, flat_metrics=True).document_loss[: len(documents)]
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-5)


def test_only_what_depends_on_the_length_is_replaced(build):
    replaced = {rope: bool(rotary_modules(build("llama", **rope_of(rope)))) for rope in ROPES}
    assert replaced == {"dynamic": True, "longrope": True, "linear": False, "yarn": False, "llama3": False}


def test_layers_of_one_model_may_differ(build, documents_of):
    ropes = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0},
    }
    model = build("gemma3", rope_parameters=ropes, max_position_embeddings=ORIGINAL)
    documents = documents_of(LENGTHS)
    expected = alone(model, documents)
    fast.apply(model)
    with torch.no_grad():
        found = model(flat=fast.flatten(documents), denominator=1, flat_metrics=True).document_loss
    torch.testing.assert_close(found, expected.double(), rtol=1e-5, atol=1e-5)


def test_a_copy_of_a_model_looks_at_its_own_batch(build, documents_of):
    model = build("llama", **rope_of("dynamic"))
    fast.apply(model)
    copied, batch = copy.deepcopy(model), fast.flatten(documents_of(LENGTHS))
    with torch.no_grad():
        losses = [one(flat=batch, denominator=1).loss for one in (model, copied)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_of_such_a_model_can_be_forecast(checkpointing, build):
    from tunesmith.forecast.tracing.step import Step, trace_step

    config = build("llama", **rope_of("dynamic")).config
    step = Step(micro_batch=(40, 12, 3), device="cuda", gradient_checkpointing=checkpointing)
    assert trace_step(config, step).peak_bytes() > 0


def test_packed_rows_lose_what_each_loses_alone(tmp_path, tiny_llama):
    """Six documents of 3 to 90 tokens, a model made for 24: plain transformers loses 7.72497 a token."""
    import shutil

    from transformers import AutoConfig, AutoModelForCausalLM

    from tunesmith.api import evaluate_file

    path = tmp_path / "model"
    shutil.copytree(tiny_llama, path)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=512,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        max_position_embeddings=24,
        rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    rows = Path(__file__).parents[2] / "cases" / "rope_dynamic_packed" / "e.jsonl"
    assert evaluate_file(str(path), str(rows), text="text")["loss"] == pytest.approx(7.72497, abs=1e-5)

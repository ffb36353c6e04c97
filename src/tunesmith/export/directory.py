"""The directory of a merged model, written and loaded again by plain transformers."""

from __future__ import annotations

import time
from importlib import metadata
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.export.check import Engine, check_passed, observe, round_trip
from tunesmith.export.fold import fold
from tunesmith.export.job import Job, Proof
from tunesmith.export.safetensors import check_tokenizer, default_type, load_plain, write_model
from tunesmith.models.card import snippet
from tunesmith.run.artefacts import QuantCost


def export_directory(job: Job, model: Any) -> Proof:
    """Write the directory, load it again and compare. Raises ModelError with what differed."""
    asked = job.asked
    quant = asked.quant or default_type(model.config)
    if asked.fold:
        job.notes.append(f"{type(model).__name__} was folded exactly into another architecture.")
        model = fold(model)
    num_rows = model.get_input_embeddings().num_embeddings
    job.say(f"writing {asked.format}")
    write_model(job.folder, model, job.tokenizer, quant)
    job.say("loading it again")
    started = time.monotonic()
    loaded, tokenizer = load_plain(job.folder)
    check_tokenizer(job.folder, tokenizer, job.tokenizer, job.texts())
    if loaded.get_input_embeddings().num_embeddings != num_rows:
        raise ModelError(
            f"export: the embedding has {loaded.get_input_embeddings().num_embeddings} rows after loading, expected "
            f"{num_rows}: the vocabulary changed."
        )
    found = observe(loaded, job.rows, job.begun)
    engine = Engine(f"transformers {metadata.version('transformers')}", time.monotonic() - started)
    trip = round_trip(engine, job.tuned, found, job.rows, quant)
    check_passed(trip, f"--format {asked.format} --quant {quant}")
    cost = QuantCost(
        num_documents=trip.num_documents,
        num_tokens=trip.num_tokens,
        loss=trip.loss,
        tuned_loss=trip.expected_loss,
        measured_by="transformers, in float32",
    )
    context = getattr(loaded.config, "max_position_embeddings", None)
    use = f"{snippet('One fine morning')}\n\nor `vllm serve path/to/model`."
    return Proof(
        quant,
        type(loaded).__name__,
        num_rows,
        context,
        (trip,),
        None if quant == "f32" else cost,
        "transformers",
        use,
    )

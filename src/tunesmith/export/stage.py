"""The stage: a run -> a folder that other engines load, with EXPORT.json; or a repository of the hub.

find the weights -> load them in float32 -> see what they predict -> merge -> write -> load again, compare

Everything is written beside its place and moved there last: what differs from the tuned model never gets there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.disk import finite, replace_directory, write_text
from tunesmith.errors import ModelError, RunError
from tunesmith.export.card import export_card
from tunesmith.export.check import observe, openings, rows_of
from tunesmith.export.fold import FOLDED, context_when_folded
from tunesmith.export.gguf.engine import llama_cpp_version
from tunesmith.export.gguf.families import context_length, family_of
from tunesmith.export.gguf.quant import find_quantizer
from tunesmith.export.job import Adapter, Asked, Job, Proof, Say
from tunesmith.recipe import ExportSection, Recipe
from tunesmith.run.artefacts import DataAccount, Export, FileEntry, Quant
from tunesmith.run.directory import EXPORTS, RunDir, check_run_path
from tunesmith.units import format_bytes

if TYPE_CHECKING:
    from tunesmith.export.tuned import Weights

BITS: dict[Quant, float] = {
    "f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q5_1": 6, "q4_0": 4.5, "q4_k_m": 4.9,
}  # fmt: skip
"""Of a weight in a file."""


@dataclass(frozen=True)
class Exported:
    """What was exported. `address` is the path, or where it lies on the hub."""

    path: Path
    address: str
    record: Export


def export(run_dir: RunDir, asked: Asked, say: Say = lambda *_: None) -> Exported:
    """Write, load again, compare. Raises TunesmithError with what differed, or what the user can do."""
    from tunesmith.export import hub
    from tunesmith.export.tuned import find_weights, load_own_tokenizer, load_tuned

    started, recipe = time.monotonic(), run_dir.recipe()
    check_asked(asked)
    weights = find_weights(run_dir, recipe, force=asked.force)
    architecture, config = _config_of(weights.base.path)
    check_can_leave(architecture, config, asked)
    target = _target(run_dir, asked)
    if asked.repo is not None:
        say("asking the hub")
        hub.check(asked.repo, force=asked.force, public=asked.public)
    tokenizer = load_own_tokenizer(run_dir, weights)
    _check_room(target, weights.base.path, asked)
    with replace_directory(target, "Nothing was exported.") as folder:
        say("loading the tuned model")
        tuned = load_tuned(run_dir, weights)
        job = _job(run_dir, recipe, asked, folder, tokenizer, tuned, say, weights.base.licence)
        proof, change = _write(job, tuned, weights.base)
        del tuned
        _compare_with_quantised(job, run_dir, weights)
        record = _record(job, weights, proof, change, time.monotonic() - started)
        account = run_dir.read(DataAccount)
        card = export_card(recipe, weights.plan, weights.base, account, weights.result, record, proof)
        write_text(folder / "README.md", card)
        values = run_dir.places.by_name(finite(record.to_json()))
        write_text(folder / Export.FILE, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        if asked.repo is not None:
            say(f"uploading to {asked.repo}")
            hub.push(folder, asked.repo, run_dir, recipe, weights.base, public=asked.public)
    return Exported(target, record.address or str(target), record)


def _record(job: Job, weights: Weights, proof: Proof, change: float | None, seconds: float) -> Export:
    from tunesmith.export import hub

    return Export(
        format=job.asked.format,
        quant=proof.quant,
        architecture=proof.architecture,
        base=weights.base.title,
        base_revision=weights.base.revision,
        method=weights.plan.method,
        weights=weights.where,
        is_adapter=job.asked.adapter,
        merged_change=change,
        end_ids=job.tokenizer.stop_ids,
        vocabulary=proof.vocabulary,
        context_length=proof.context_length,
        rows=job.what,
        cost=proof.cost,
        round_trips=proof.round_trips,
        files=_files(job.folder),
        address=hub.address(job.asked.repo) if job.asked.repo else None,
        notes=tuple(job.notes),
        seconds=seconds,
    )


def asked_of(section: ExportSection) -> Asked | None:
    """What a recipe asks for at the end of its run; None where it does not."""
    if section.format is None:
        return None
    return Asked(section.format, section.quant, repo=section.repo, force=True)


def check_asked(asked: Asked) -> None:
    """Refuse what does not go together, before any work. Raises ModelError or RunError."""
    from tunesmith.export.safetensors import DTYPES

    given = f"export --format {asked.format}"
    if asked.format == "hub" and asked.repo is None:
        raise RunError(f"{given}: say where it goes: --repo OWNER/NAME")
    if asked.format != "hub" and asked.repo is not None:
        raise RunError(f"{given} --repo {asked.repo}: only --format hub is uploaded. Leave out --repo.")
    if asked.adapter and asked.format != "gguf":
        raise RunError(
            f"{given} --adapter: RUN/model is that adapter already, for peft. --adapter is for --format gguf."
        )
    if asked.fold and asked.format not in ("safetensors", "hub"):
        raise RunError(
            f"{given} --fold: a GGUF file is folded where that is needed. --fold is for safetensors and hub."
        )
    if asked.format in ("safetensors", "hub") and asked.quant not in (None, *DTYPES):
        raise ModelError(f"{given} --quant {asked.quant}: expected one of {', '.join(DTYPES)}; the others are GGUF's.")
    if asked.format == "onnx" and asked.quant not in (None, "f32"):
        raise ModelError(f"{given} --quant {asked.quant}: expected f32.")
    if asked.format == "gguf":
        llama_cpp_version()
        if asked.quant == "q4_k_m":
            find_quantizer()
    if asked.format == "onnx":
        from tunesmith.export.onnx import check_packages

        check_packages()


def check_can_leave(architecture: str, config: Any, asked: Asked) -> None:
    """Refuse an architecture that cannot leave in that format. Raises ModelError."""
    if asked.fold and architecture not in FOLDED:
        raise ModelError(f"export --fold: {architecture} needs none. Folded are {', '.join(FOLDED)}.")
    if asked.format == "gguf" and architecture not in FOLDED:
        family_of(config, architecture)


def check_recipe(recipe: Recipe, base: str) -> str | None:
    """Before a run whose recipe names an export: that it can be done. `base`: the folder of the base model.

    Returns what should be known before training. Raises TunesmithError.
    """
    asked = asked_of(recipe.export)
    if asked is None:
        return None
    check_asked(asked)
    architecture, config = _config_of(base)
    check_can_leave(architecture, config, asked)
    context = context_when_folded(config) if asked.format == "gguf" else None
    if context is None:
        return None
    return f"export: as GGUF, {architecture} reads {context} tokens at most (its local window)"


def _write(job: Job, tuned: Any, base: Any) -> tuple[Proof, float | None]:
    """The files of the format, proved; and by how much the merge changed the base."""
    from tunesmith.export.merge import change_of, merge

    asked, is_adapted = job.asked, hasattr(tuned, "peft_config")
    if asked.adapter:
        from tunesmith.export.gguf.stage import export_adapter

        if not is_adapted:
            raise RunError("export --adapter: the run trained all weights, so there is no adapter. Leave it out.")
        adapters = _adapters(tuned)
        return export_adapter(job, tuned.unload(), adapters), None
    if is_adapted:
        job.say("merging")
        model, change = merge(tuned)
    else:
        model, change = tuned, change_of(tuned, base)
    if asked.format == "gguf":
        from tunesmith.export.gguf.stage import export_gguf

        return export_gguf(job, model), change
    if asked.format == "onnx":
        from tunesmith.export.onnx import export_onnx

        return export_onnx(job, model), change
    from tunesmith.export.directory import export_directory

    return export_directory(job, model), change


def _compare_with_quantised(job: Job, run_dir: RunDir, weights: Weights) -> None:
    """A note on what the rows lose on the base in 4 bits that a QLoRA run trained on."""
    from tunesmith.export.tuned import load_quantised

    model = load_quantised(run_dir, weights)
    if model is None:
        return
    job.say("scoring it on the base in 4 bits")
    loss = observe(model, job.rows).loss
    job.notes.append(
        f"Trained on a base in 4 bits (loss {loss:.4f} on these rows); exported on the base in full precision "
        f"({job.tuned.loss:.4f}, {job.tuned.loss - loss:+.4f})."
    )


def _job(
    run_dir: RunDir,
    recipe: Recipe,
    asked: Asked,
    folder: Path,
    tokenizer: Any,
    tuned: Any,
    say: Say,
    licence: str | None,
) -> Job:
    from tunesmith.export.tuned import find_rows, is_chat

    notes = list[str]()
    say("reading the held-out rows")
    found = find_rows(run_dir, recipe, tokenizer, notes, say)
    folds = asked.fold or asked.format == "gguf"
    rows = rows_of(
        found.documents, (context_when_folded(tuned.config) if folds else None) or context_length(tuned.config)
    )
    begun = openings(rows)
    say("scoring the tuned model")
    return Job(
        asked=asked,
        name=run_dir.path.resolve().name,
        folder=folder,
        tokenizer=tokenizer,
        licence=licence,
        is_chat=is_chat(run_dir),
        starts=found.starts,
        rows=rows,
        what=found.what,
        begun=begun,
        tuned=observe(tuned, rows, begun),
        say=say,
        notes=notes,
    )


def _adapters(tuned: Any) -> Mapping[str, Adapter]:
    """The matrices of every adapted layer, its scale in the second one. Raises ModelError for DoRA, which has more."""
    if hasattr(tuned.get_input_embeddings(), "token_adapter"):
        raise ModelError(
            "export --adapter: a GGUF adapter is two matrices a layer, and this one has rows for added tokens besides "
            "(model.grow). Leave out --adapter, which merges it."
        )
    found = dict[str, Adapter]()
    for name, layer in tuned.named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        if layer.lora_variant:
            raise ModelError(
                "export --adapter: a GGUF adapter is two matrices a layer, and DoRA scales rows besides. "
                "Leave out --adapter, which merges it."
            )
        (key,) = layer.lora_A
        down, up = layer.lora_A[key].weight.detach(), layer.lora_B[key].weight.detach() * layer.scaling[key]
        found[name.removeprefix("base_model.model.")] = Adapter(down.float().clone(), up.float().clone())
    return found


def _config_of(folder: str) -> tuple[str, Any]:
    """The name of a model's class, and its config."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, config.model_type)), config


def _target(run_dir: RunDir, asked: Asked) -> Path:
    """Where it goes. Raises RunError where something lies there that is not to be replaced."""
    name = "-".join([asked.format, *(["adapter"] if asked.adapter else []), *([asked.quant] if asked.quant else [])])
    target = asked.out or run_dir.file(EXPORTS) / (f"{name}-folded" if asked.fold else name)
    check_run_path(target)
    if target.exists() and any(target.iterdir()):
        if not (target / Export.FILE).is_file():
            raise RunError(f"{target}: is not empty and holds no export. Choose another --out.")
        if not asked.force:
            raise RunError(f"{target}: holds an export already. Replace it with --force, or choose another --out.")
    return target


def _check_room(target: Path, base: str, asked: Asked) -> None:
    """Raise RunError when the disk is too small for what will be written, by the number of the base's weights."""
    from safetensors import safe_open

    number = 0
    for path in Path(base).glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                size = 1
                for length in file.get_slice(name).get_shape():
                    size *= length
                number += size
    quant = asked.quant or ("f16" if asked.format == "gguf" else "f32")
    needed = int(number * BITS[quant] / 8) + (2 * number if quant == "q4_k_m" else 0)  # which is made of f16
    free = shutil.disk_usage(next(folder for folder in target.resolve().parents if folder.exists())).free
    if needed > free:
        raise RunError(
            f"{target}: the export takes up to {format_bytes(needed)}, and {format_bytes(free)} are free there. "
            "Free some room, choose another --out, or a smaller --quant."
        )


def _files(folder: Path) -> dict[str, FileEntry]:
    found = dict[str, FileEntry]()
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[str(path.relative_to(folder))] = FileEntry(bytes=path.stat().st_size, sha256=digest)
    return found

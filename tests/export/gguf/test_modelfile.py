"""What Ollama is told: the template in its language, and where text ends."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from tunesmith.export.gguf.modelfile import modelfile, turns_of
from tunesmith.models.tokenizer import TextTokenizer

COMMANDS = ("from", "parameter", "template", "system", "adapter", "license", "message")
PARAMETERS = {"stop": str, "num_ctx": int}


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
        'PARAMETER stop """<|endoftext|>"""',
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
    assert 'PARAMETER stop """<|im_end|>"""' in text


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


# ----------------------------------------------------------------------------------------- read as Ollama reads a file


def read(text: str) -> list[tuple[str, str]]:
    """(command, or name of a parameter; its value). Commands begin lines; a quoted value goes on over lines, has no
    escapes, and loses what does not print."""
    found, lines = list[tuple[str, str]](), iter(text.splitlines())
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        command, _, value = line.partition(" ")
        assert command.lower() in COMMANDS, f"command must be one of {COMMANDS}"
        if command.lower() == "parameter":
            command, _, value = value.partition(" ")
            PARAMETERS[command](value.strip('"'))
        quotes = next((quotes for quotes in ('"""', '"') if value.startswith(quotes)), "")
        while quotes and (len(value) < 2 * len(quotes) or not value.rstrip().endswith(quotes)):
            value += "\n" + next(lines)
        value = value.strip()[len(quotes) : -len(quotes) or None]
        kept = "".join(character for character in value if character.isprintable() or character in "\n\t")
        found.append((command.lower(), kept))
    assert found[0][0] == "from"
    return found


def render(template: str, turns: list[dict[str, str]]) -> str:
    """What Ollama's templates make of turns, as far as ours use them: range, if, else if, fields, end."""
    parts = re.split(r"\{\{ (.*?) \}\}", template)
    assert (parts.count("end"), parts[1]) == (2, "range .Messages")
    last, text = len(parts) - 1 - parts[::-1].index("end"), ""
    for turn in turns:
        is_on = False
        for place in range(3, last, 2):
            if role := re.fullmatch(r'(?:else )?if eq .Role "(\w+)"', parts[place]):
                is_on = role[1] == turn["role"]
            else:
                assert parts[place] in (".Content", "end")
                text += turn["content"] if is_on and parts[place] == ".Content" else ""
                is_on = is_on and parts[place] != "end"
            text += parts[place + 1] if is_on else ""
    return text + parts[last + 1]


LLAMA_3 = (
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
WIDE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<｜User｜>\"{{ m['content'] }}\"\t{% else %}"
    "<｜Assistant｜>{{ m['content'] }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)


@pytest.mark.parametrize("template", [None, LLAMA_3, WIDE], ids=["chatml", "llama 3", "wide"])
def test_ollama_frames_turns_as_the_chat_template_does(template: str | None, chat_tokenizer: TextTokenizer) -> None:
    tokenizer = chat_tokenizer if template is None else with_template(chat_tokenizer, template)
    text, note = modelfile("my shows.gguf", tokenizer, is_chat=True, context=512)
    assert note is None
    values: dict[str, Any] = dict(read(text))
    assert (values["from"], values["num_ctx"]) == ("./my shows.gguf", "512")
    turns = [{"role": role, "content": f'Say "{role}".\nNow.'} for role in ("user", "assistant", "user")]
    expected = tokenizer.backend.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert render(values["template"], turns) == expected


@pytest.mark.parametrize("token", ["<｜end▁of▁sentence｜>", 'say "', "\\", "\n\n", '"\n'])
def test_a_stop_token_is_read_to_the_letter(
    token: str, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextTokenizer, "decode", lambda self, ids, **options: token)
    text, note = modelfile("shows.gguf", tokenizer, is_chat=False, context=None)
    assert note is None
    assert read(text)[-1] == ("stop", token)


@pytest.mark.parametrize("token", ["<\u200b>", '"""\n', '""" \n'])
def test_one_that_a_modelfile_cannot_hold_is_named(
    token: str, tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextTokenizer, "decode", lambda self, ids, **options: token)
    text, note = modelfile("shows.gguf", tokenizer, is_chat=False, context=None)
    assert "stop" not in text
    assert note is not None
    assert "cannot hold the stop token" in note


def test_frames_that_ollama_would_run_are_left_out(chat_tokenizer: TextTokenizer) -> None:
    frames = "{% for m in messages %}{{ '{{' }}{{ m['role'] }}{{ '}}' }}{{ m['content'] }}\n{% endfor %}"
    text, note = modelfile("shows.gguf", with_template(chat_tokenizer, frames), is_chat=True, context=None)
    assert "TEMPLATE" not in text
    assert note is not None

"""The Modelfile that Ollama makes a model from: the file, its template in Ollama's language, and where text ends."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tunesmith.models.tokenizer import TextTokenizer

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Turns:
    """What a chat template puts around the text of each role, in front of all, and where an answer begins."""

    around: dict[str, tuple[str, str]]
    answer: str


def modelfile(file: str, tokenizer: TextTokenizer, *, is_chat: bool, context: int | None) -> tuple[str, str | None]:
    """The Modelfile, and a note on what of the tokenizer it does not hold."""
    lines, notes = [f"FROM ./{file}"], list[str]()
    turns = turns_of(tokenizer) if is_chat else None
    template = "{{ .Prompt }}" if not is_chat else None if turns is None else _template(turns)
    if template is None or (quoted := _quoted(template)) is None:
        notes.append(
            "The chat template does more than frame turns, or holds what a Modelfile cannot, so that has none: Ollama "
            "uses what it makes of the template in the GGUF file. Look at `ollama show --template` before use."
        )
    else:
        lines.append(f"TEMPLATE {quoted}")
    for token in tokenizer.stop_ids:
        text = tokenizer.decode([token], skip_special_tokens=False)
        if (quoted := _quoted(text)) is None:
            notes.append(f"The Modelfile cannot hold the stop token {text!r}; it is in the GGUF file.")
        else:
            lines.append(f"PARAMETER stop {quoted}")
    if context is not None:
        lines.append(f"PARAMETER num_ctx {min(context, 4096)}")
    return "\n".join(lines) + "\n", " ".join(notes) or None


def _quoted(text: str) -> str | None:
    """A value as Ollama reads it: what stands between the quotes, to the letter, for there are no escapes.

    None where it would read something else: it drops what does not print, and a line that ends in the quotes ends the
    value. (github.com/ollama/ollama, parser/parser.go)
    """
    if not all(character.isprintable() or character in "\n\t" for character in text) or re.search(r'"""[ \t]*\n', text):
        return None
    return f'"""{text}"""'


def turns_of(tokenizer: TextTokenizer) -> Turns | None:
    """What stands around each turn, found by writing turns of known text; None where that does not say it all."""
    marks = {role: f"\u2063{role}\u2063" for role in ROLES}

    def render(*roles: str, ask: bool = False) -> str | None:
        turns = [{"role": role, "content": marks[role]} for role in roles]
        try:
            return str(tokenizer.backend.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask))
        except Exception:  # a template is a program that comes with a model; it may refuse any turns
            return None

    one, two, asked = render("user"), render("user", "assistant"), render("user", ask=True)
    if one is None or two is None or asked is None or not two.startswith(one) or not asked.startswith(one):
        return None
    around = {"user": _split(one, marks["user"]), "assistant": _split(two[len(one) :], marks["assistant"])}
    told = render("system", "user")
    if told is not None and marks["system"] in told and told.endswith(one):
        around["system"] = _split(told[: -len(one)], marks["system"])
    turns = Turns({role: both for role, both in around.items() if both is not None}, asked[len(one) :])
    probe = ("user", "assistant", "user")
    if len(turns.around) < 2 or render(*probe, ask=True) != _join(turns, probe, marks):
        return None
    return turns


def _split(text: str, mark: str) -> tuple[str, str] | None:
    before, found, after = text.partition(mark)
    is_program = "{{" in text or "}}" in text  # to Ollama
    return (before, after) if found and mark not in after and not is_program else None


def _join(turns: Turns, roles: tuple[str, ...], marks: dict[str, str]) -> str:
    framed = [turns.around[role][0] + marks[role] + turns.around[role][1] for role in roles]
    return "".join(framed) + turns.answer


def _template(turns: Turns) -> str:
    parts: list[Any] = []
    for number, (role, (before, after)) in enumerate(turns.around.items()):
        word = "if" if number == 0 else "else if"
        parts.append(f'{{{{ {word} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}')
    return "{{ range .Messages }}" + "".join(parts) + "{{ end }}{{ end }}" + turns.answer

"""The Modelfile that Ollama makes a model from: the file, its template in Ollama's language, and where text ends."""

from __future__ import annotations

import json
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
    """The Modelfile, and a note where the chat template is one that Ollama's language was not written for."""
    lines, note = [f"FROM ./{file}"], None
    turns = turns_of(tokenizer) if is_chat else None
    if is_chat and turns is None:
        note = (
            "The chat template does more than frame turns, so the Modelfile has none: Ollama uses what it makes of the "
            "template in the GGUF file. Look at `ollama show --template` before use."
        )
    elif turns is not None:
        lines.append(f'TEMPLATE """{_template(turns)}"""')
    else:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    for token in tokenizer.stop_ids:
        lines.append(f"PARAMETER stop {json.dumps(tokenizer.decode([token], skip_special_tokens=False))}")
    if context is not None:
        lines.append(f"PARAMETER num_ctx {min(context, 4096)}")
    return "\n".join(lines) + "\n", note


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
    return (before, after) if found and mark not in after else None


def _join(turns: Turns, roles: tuple[str, ...], marks: dict[str, str]) -> str:
    framed = [turns.around[role][0] + marks[role] + turns.around[role][1] for role in roles]
    return "".join(framed) + turns.answer


def _template(turns: Turns) -> str:
    parts: list[Any] = []
    for number, (role, (before, after)) in enumerate(turns.around.items()):
        word = "if" if number == 0 else "else if"
        parts.append(f'{{{{ {word} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}')
    return "{{ range .Messages }}" + "".join(parts) + "{{ end }}{{ end }}" + turns.answer

"""Conversations as people have them: what is learned is what was meant, or the message says what is the matter."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AddedToken, AutoTokenizer

from tunesmith.audit.stage import audit
from tunesmith.data import Data, prepare
from tunesmith.errors import DataError, ModelError
from tunesmith.models.find import find_model
from tunesmith.models.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.recipe import DataSection
from tunesmith.run.artefacts import Finding

CASES = Path(__file__).parent
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\\nTools: ' + (tools|tojson) + '<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + (m['content'] or '') }}"
    "{% for c in m.get('tool_calls') or [] %}{{ '<call>' + (c['function']|tojson) + '</call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
JOINS_ARGUMENTS = TOOLS.replace("(c['function']|tojson)", "c['function']['name'] + ' ' + c['function']['arguments']")
PRINTS_ARGUMENTS = TOOLS.replace("(c['function']|tojson)", "c['function']['name'] ~ ' ' ~ c['function']['arguments']")
NO_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}{{ '<|im_start|>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' + (m['content']|trim) "
    "+ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>model\\n' }}{% endif %}"
)
DROPS_SYSTEM = NO_SYSTEM.replace("{{ raise_exception('no system role') }}{% endif %}", "{% else %}").replace(
    "{% endfor %}", "{% endif %}{% endfor %}"
)
LAST_THINKS = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' and loop.index0 > ns.last %}"
    "{{ '<think>\\n' + (m.get('reasoning_content') or '') + '\\n</think>\\n\\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PROMPT_THINKS = (
    "{% for m in messages %}{% set c = m['content'].split('</think>')[-1] if m['role'] == 'assistant' else "
    "m['content'] %}{{ '<|im_start|>' + m['role'] + '\\n' + c + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)
DATED = "{{ 'Today: ' + strftime_now('%d %b %Y') + '\\n' }}" + CHATML
Rows = list[dict[str, Any]]
Made = Callable[..., TextTokenizer]


def new_model(
    base: Path, folder: Path, template: str | dict[str, str] | None, *, eos: str = "<|im_end|>", **more: Any
) -> Path:
    """A copy of the tiny model `base` with ChatML's control tokens and a template. resized: the model has rows for
    them; special: they are special tokens; added: further plain tokens."""
    path = Path(shutil.copytree(base, folder))
    backend = AutoTokenizer.from_pretrained(path)
    marks = [AddedToken(mark, special=more.get("special", True)) for mark in ("<|im_start|>", "<|im_end|>")]
    backend.add_tokens([*marks, *more.get("added", ())])
    backend.eos_token = eos
    backend.chat_template = template
    backend.save_pretrained(path)
    if more.get("resized", True):
        _resize(path, len(backend))
    return path


def _resize(path: Path, num_rows: int) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | {"vocab_size": num_rows}), encoding="utf-8")
    weights = load_file(path / "model.safetensors")
    rows = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = torch.cat([rows, rows[: num_rows - len(rows)] * 0.5])
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def made(tiny_llama: Path, tmp_path: Path) -> Made:
    """made(template, ...): the tokenizer of a tiny model with that template."""

    def make(template: str | dict[str, str] | None, **more: Any) -> TextTokenizer:
        path = new_model(tiny_llama, tmp_path / f"model{len(list(tmp_path.iterdir()))}", template, **more)
        return load_tokenizer(find_model(str(path)))

    return make


def read(rows: Path | Rows, tokenizer: TextTokenizer, tmp_path: Path | None = None, **section: Any) -> Data:
    if isinstance(rows, list):
        assert tmp_path is not None
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        rows = path
    date = section.pop("date", None)
    values = {"eval_fraction": 0, "near_duplicates": False, **section}
    return prepare(DataSection(path=str(rows), **values), tokenizer, 1024, date=date)


def marked(data: Data, tokenizer: TextTokenizer) -> list[str]:
    """Each document with what is learned between ⟪ and ⟫."""
    texts = []
    for ids, supervised in data.train:
        text, before = "", False
        for token, learned in zip([*ids.tolist(), None], [*supervised.tolist(), False], strict=True):
            text += ("⟪" if learned else "⟫") * (learned != before)
            text += "" if token is None else tokenizer.decode([token], skip_special_tokens=False)
            before = learned
        texts.append(text)
    return texts


def learned(data: Data, tokenizer: TextTokenizer) -> list[list[str]]:
    return [[part.split("⟫")[0] for part in text.split("⟪")[1:]] for text in marked(data, tokenizer)]


def asked_and_said(answer: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Ask."}, {"role": "assistant", **answer}], **more}


def call(arguments: Any, name: str = "weather") -> dict[str, Any]:
    return {"content": None, "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]}


def named(data: Data, tokenizer: TextTokenizer, name: str, **section: Any) -> Finding:
    report = audit(data, tokenizer, DataSection(path="-", **section), 1024)
    return next(finding for finding in report.findings if finding.name == name)


# ------------------------------------------------------------------------------------------------------------- tools


def test_a_call_stands_in_the_learned_text_of_the_default_template(made: Made) -> None:
    tokenizer = made(None, eos="<|endoftext|>")
    first = learned(read(CASES / "tool_calls_dropped_default" / "a.jsonl", tokenizer), tokenizer)[0]
    call = '<tool_call>{"name": "f", "arguments": {"query": "garden silver river ", "limit": 0}}</tool_call>'
    assert first[0] == f"{call}<|endoftext|>"
    assert first[1].startswith("Done forest ocean")


def test_a_call_that_the_template_does_not_write_is_refused_by_name(made: Made) -> None:
    with pytest.raises(DataError, match=r"a.jsonl:1: turn 2: the template does not write tool_calls \(.*'f'\)"):
        read(CASES / "tool_calls_dropped_default" / "a.jsonl", made(CHATML))


def test_a_tool_use_template_is_for_rows_with_tools(made: Made, tmp_path: Path) -> None:
    tokenizer = made({"default": CHATML, "tool_use": TOOLS})
    rows = [asked_and_said(call({"town": "x"})), asked_and_said({"content": "No tool."})]
    assert learned(read(rows, tokenizer, tmp_path), tokenizer) == [
        ['<call>{"name": "weather", "arguments": {"town": "x"}}</call><|im_end|>'],
        ["No tool.<|im_end|>"],
    ]


def test_arguments_that_are_json_text_are_read_once(made: Made) -> None:
    tokenizer = made(TOOLS)
    found = learned(read(CASES / "tool_arguments_json_string" / "rows.jsonl", tokenizer), tokenizer)
    assert found[0][0] == '<call>{"name": "weather", "arguments": {"town": "town 0"}}</call><|im_end|>'


@pytest.mark.parametrize(
    "answer",
    [
        {"content": "", "function_call": {"name": "weather", "arguments": '{"town": "x"}'}},
        {"content": "", "tool_calls": json.dumps(call({"town": "x"})["tool_calls"])},
        {"content": "", "tool_calls": [{"name": "weather", "arguments": {"town": "x"}}]},
    ],
    ids=["function_call", "json text", "flat"],
)
def test_calls_are_read_as_they_are_written_elsewhere(made: Made, tmp_path: Path, answer: dict[str, Any]) -> None:
    tokenizer = made(TOOLS)
    found = learned(read([asked_and_said(answer), asked_and_said({"content": "b"})], tokenizer, tmp_path), tokenizer)
    assert found[0] == ['<call>{"name": "weather", "arguments": {"town": "x"}}</call><|im_end|>']


@pytest.mark.parametrize("template", [JOINS_ARGUMENTS, PRINTS_ARGUMENTS])
def test_a_template_that_writes_arguments_as_text_gets_text(made: Made, tmp_path: Path, template: str) -> None:
    tokenizer = made(template)
    found = learned(read([asked_and_said(call({"town": "x"}))] * 2, tokenizer, tmp_path), tokenizer)
    assert found[0] == ['<call>weather {"town": "x"}</call><|im_end|>']


def test_what_parquet_fills_with_null_is_dropped(made: Made, tmp_path: Path) -> None:
    tokenizer = made(TOOLS)
    first, second = marked(read(CASES / "parquet_null_fill" / "a.parquet", tokenizer), tokenizer)[:2]
    assert "null" not in first + second
    assert '"arguments": {"query": "garden silver river ", "limit": 0}}' in first
    assert '"properties": {"town": {"type": "string"}}' in second


def test_a_null_that_a_row_wrote_stays(made: Made, tmp_path: Path) -> None:
    tokenizer = made(TOOLS)
    found = learned(read([asked_and_said(call({"town": None}))] * 2, tokenizer, tmp_path), tokenizer)
    assert '"arguments": {"town": null}' in found[0][0]


def test_a_null_in_json_text_stays_in_parquet_too(made: Made, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    tokenizer = made(TOOLS)
    row = asked_and_said(call(json.dumps({"town": None})))
    write_table(
        pyarrow.Table.from_pylist([row, {"messages": json.loads(json.dumps(row["messages"]))}]), tmp_path / "a.parquet"
    )
    found = learned(read(tmp_path / "a.parquet", tokenizer), tokenizer)
    assert '"arguments": {"town": null}' in found[0][0]


def test_tools_that_the_template_leaves_out_are_told(made: Made, tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    rows = [asked_and_said({"content": "a"}, tools=tools), asked_and_said({"content": "b"}, tools=tools)]
    assert (
        "does not write tools, so that the model is not told of them (2 rows)"
        in read(rows, made(CHATML), tmp_path).account.how
    )
    assert "not told" not in read(rows, made(TOOLS), tmp_path).account.how


def test_an_empty_turn_is_counted_and_warned_of(made: Made, tmp_path: Path) -> None:
    tokenizer = made(CHATML)
    rows = [asked_and_said({"content": f"Answer {n}."}) for n in range(4)]
    rows[2]["messages"] += [{"role": "user", "content": "And?"}, {"role": "assistant", "content": ""}]
    data = read(rows, tokenizer, tmp_path)
    finding = named(data, tokenizer, "learned")
    assert (finding.status, finding.rows) == ("warns", (f"{tmp_path}/rows.jsonl:3",))
    assert "1 conversation with an assistant turn that says nothing" in finding.found


def test_a_turn_of_which_the_template_writes_nothing_is_refused(made: Made, tmp_path: Path) -> None:
    deaf = CHATML.replace("m['content']", "(m['content'] if m['role'] == 'user' else '')")
    with pytest.raises(
        DataError, match=r"rows\.jsonl:1: turn 2: the template writes nothing of what the assistant says"
    ):
        read([asked_and_said({"content": "Answer."})] * 2, made(deaf), tmp_path)


# -------------------------------------------------------------------------------------------------------------- marks


def test_turns_of_weight_0_are_read_and_not_learned(made: Made) -> None:
    tokenizer = made(CHATML)
    data = read(CASES / "turn_weight_zero" / "rows.jsonl", tokenizer)
    assert learned(data, tokenizer) == [[f"good answer {n}<|im_end|>"] for n in range(8)]
    assert "bad answer 0<|im_end|>" in marked(data, tokenizer)[0]


@pytest.mark.parametrize("mark", [{"train": False}, {"weight": 0.0}, {"trainable": "false"}, {"loss": False}])
def test_other_words_for_not_learned(made: Made, tmp_path: Path, mark: dict[str, Any]) -> None:
    tokenizer = made(CHATML)
    row = asked_and_said({"content": "good"})
    row["messages"] += [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "bad", **mark}]
    assert learned(read([row, row], tokenizer, tmp_path), tokenizer) == [["good<|im_end|>"]] * 2


def test_half_a_weight_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"turn 2: weight is 0\.5\. A turn is learned"):
        read([asked_and_said({"content": "a", "weight": 0.5})] * 2, made(CHATML), tmp_path)


@pytest.mark.parametrize("special", [True, False])
def test_control_tokens_in_turns_are_characters_and_warned_of(made: Made, special: bool) -> None:
    tokenizer = made(CHATML, special=special)
    data = read(CASES / "control_token_in_chat_content" / "rows.jsonl", tokenizer)
    end = tokenizer.backend.convert_tokens_to_ids("<|im_end|>")
    for number, (ids, supervised) in enumerate(data.train):
        assert ids.tolist().count(end) == 2, "the template's alone"
        assert ids[supervised].tolist().count(end) == 1
        assert data.train.text(number) == tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    finding = named(data, tokenizer, "markers")
    assert (finding.status, finding.value) == ("warns", 8)


def test_tags_that_an_assistant_writes_itself_stay_tokens(made: Made, tmp_path: Path) -> None:
    template = CHATML + "{# <think> </think> #}"
    tokenizer = made(template, added=("<think>", "</think>"))
    row = {
        "messages": [
            {"role": "user", "content": "What is <think>?"},
            {"role": "assistant", "content": "<think>hm</think>A tag."},
        ]
    }
    ids, supervised = read([row, row], tokenizer, tmp_path).train[0]
    think = tokenizer.backend.convert_tokens_to_ids("<think>")
    assert think in ids[supervised]
    assert think not in ids[~supervised], "in a user's turn it is characters"


def test_chat_that_was_rendered_before_is_told(made: Made) -> None:
    tokenizer = made(CHATML)
    data = read(CASES / "prerendered_chat_in_text" / "a.jsonl", tokenizer)
    finding = named(data, tokenizer, "markers")
    assert finding.status == "warns"
    assert "look like chats that a template rendered before" in finding.found
    assert "data.messages" in str(finding.option)


@pytest.mark.parametrize(
    "text",
    [
        "<s>[INST] Hi [/INST] Hello",
        "<|start_header_id|>user<|end_header_id|>\n\nHi",
        "<start_of_turn>user\nHi",
        "<|user|>\nHi",
    ],
)
def test_chats_of_other_families_are_told(made: Made, tmp_path: Path, text: str) -> None:
    tokenizer = made(CHATML)
    data = read([{"text": f"{text} {n}"} for n in range(4)], tokenizer, tmp_path)
    assert "rendered before" in named(data, tokenizer, "markers").found


def test_an_html_text_is_no_chat(made: Made, tmp_path: Path) -> None:
    tokenizer = made(CHATML)
    data = read([{"text": f"<p>The user <b>{n}</b> [1] wrote.</p>"} for n in range(4)], tokenizer, tmp_path)
    assert named(data, tokenizer, "markers").status == "fine"


# ---------------------------------------------------------------------------------------------------------- templates


def test_a_template_that_rewrites_turns_makes_a_document_a_turn(made: Made) -> None:
    tokenizer = made(LAST_THINKS)
    path = CASES / "multi_turn_thinking_template" / "rows.jsonl"
    data = read(path, tokenizer)
    assert len(data.train) == 24
    assert learned(data, tokenizer)[:2] == [
        ["<think>\n\n</think>\n\nAnswer 0.0: the river bends 3 times.<|im_end|>"],
        ["<think>\n\n</think>\n\nAnswer 0.1: the river bends 3 times.<|im_end|>"],
    ]
    assert "the template rewrites earlier turns" in data.account.how
    last = read(path, tokenizer, turns="last")
    assert learned(last, tokenizer)[0] == ["<think>\n\n</think>\n\nAnswer 0.2: the river bends 3 times.<|im_end|>"]
    assert (len(last.train), "data.turns" in last.account.how) == (8, True)


def test_documents_of_one_conversation_are_on_one_side(made: Made) -> None:
    path = CASES / "multi_turn_thinking_template" / "rows.jsonl"
    data = read(path, made(LAST_THINKS), eval_fraction=0.4)
    sides = [{documents.row_name(n) for n in range(len(documents))} for documents in (data.train, data.eval)]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_each_turn_is_a_document_when_asked(made: Made, tmp_path: Path) -> None:
    tokenizer = made(CHATML)
    data = read(CASES / "assistant_speaks_first" / "rows.jsonl", tokenizer, turns="each")
    assert learned(data, tokenizer)[:2] == [["Welcome 0<|im_end|>"], ["Yes 0<|im_end|>"]]


def test_a_generation_prompt_that_opens_a_thought_is_followed(made: Made, tmp_path: Path) -> None:
    tokenizer = made(PROMPT_THINKS)
    data = read(CASES / "generation_prompt_opens_think" / "rows.jsonl", tokenizer)
    assert marked(data, tokenizer)[0].endswith(
        "assistant\n<think>\n⟪\n</think>\n\nAnswer 0.0: the river bends 3 times.<|im_end|>⟫"
    )
    assert "the template's generation prompt opens a thought and is no beginning" in data.account.how
    thinking = [asked_and_said({"content": "<think>\nHm.\n</think>\n\nAnswer."})] * 2
    found = marked(read(thinking, tokenizer, tmp_path), tokenizer)[0]
    assert found.endswith("<think>\n⟪Hm.\n</think>\n\nAnswer.<|im_end|>⟫")


def test_another_generation_prompt_is_explained(made: Made, tmp_path: Path) -> None:
    other = CHATML.replace("'<|im_start|>assistant\\n' }}{% endif", "'<|im_start|>bot\\n' }}{% endif")
    with pytest.raises(DataError, match="the template's generation prompt is no beginning of the assistant's turn"):
        read([asked_and_said({"content": "a"})] * 2, made(other), tmp_path)


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM], ids=["refuses", "drops"])
def test_a_system_turn_that_the_template_does_not_take_is_asked(made: Made, template: str) -> None:
    tokenizer = made(template)
    data = read(CASES / "no_system_role" / "rows.jsonl", tokenizer)
    assert "user\nBe brief.\n\nQuestion 0.0 about river number 0?<|im_end|>" in marked(data, tokenizer)[0]
    assert "the template takes no system turn" in data.account.how


def test_an_assistant_may_speak_first(made: Made) -> None:
    tokenizer = made(CHATML)
    data = read(CASES / "assistant_speaks_first" / "rows.jsonl", tokenizer)
    assert marked(data, tokenizer)[0] == (
        "<|im_start|>assistant\n⟪Welcome 0<|im_end|>⟫\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "⟪Yes 0<|im_end|>⟫"
    )


def test_a_system_turn_goes_to_the_first_user_turn_wherever_it_stands(made: Made, tmp_path: Path) -> None:
    tokenizer = made(NO_SYSTEM)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "Hi."}]
    rows = [{"messages": turns + asked_and_said({"content": f"{n}"})["messages"]} for n in range(2)]
    found = marked(read(rows, tokenizer, tmp_path), tokenizer)[1]
    assert found.endswith(
        "model\n⟪Hi.<|im_end|>⟫\n<|im_start|>user\nBe brief.\n\nAsk.<|im_end|>\n<|im_start|>model\n⟪1<|im_end|>⟫"
    )


def test_a_template_that_the_user_must_open_says_so(made: Made) -> None:
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('User first') }}{% endif %}" + CHATML
    with pytest.raises(DataError, match="The assistant opens the conversation, which this template does not take"):
        read(CASES / "assistant_speaks_first" / "rows.jsonl", made(strict))


def test_a_date_is_that_of_the_run(made: Made) -> None:
    tokenizer = made(DATED)
    path = CASES / "chat_end_is_not_eos" / "rows.jsonl"
    first = read(path, tokenizer, date=datetime.date(2024, 2, 29))
    assert marked(first, tokenizer)[0].startswith("Today: 29 Feb 2024\n")
    assert first.account.chat is not None
    assert first.account.chat.date == "2024-02-29"
    assert read(path, tokenizer, date=datetime.date(2024, 2, 29)).fingerprint == first.fingerprint
    assert read(path, tokenizer, date=datetime.date(2024, 3, 1)).fingerprint != first.fingerprint


def test_chat_tokens_beyond_the_rows_are_one_error(made: Made) -> None:
    tokenizer = made(CHATML, eos="<|endoftext|>", resized=False)
    with pytest.raises(ModelError, match=r"needs the token <\|im_start\|> \(id 512\), and the model has 512 embedding"):
        read(CASES / "added_tokens_beyond_rows" / "rows.jsonl", tokenizer)


def test_added_words_beyond_the_rows_are_one_error(made: Made, tmp_path: Path) -> None:
    tokenizer = made(None, eos="<|endoftext|>", resized=False, added=("dragon",))
    with pytest.raises(ModelError, match=r"the token dragon \(id 514\), and the model has 512 embedding rows"):
        read([{"text": f"A dragon {n}."} for n in range(3)], tokenizer, tmp_path)


# --------------------------------------------------------------------------------------------------------------- rows


def test_trl_message_lists_are_recognised(made: Made, tmp_path: Path) -> None:
    tokenizer = made(CHATML)
    asked = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Count."},
    ]
    rows = [{"prompt": asked, "completion": [{"role": "assistant", "content": f"{n}"}]} for n in range(4)]
    for section in ({}, {"prompt": "prompt", "completion": "completion"}):
        data = read(rows, tokenizer, tmp_path, **section)
        assert learned(data, tokenizer) == [[f"{n}<|im_end|>"] for n in range(4)]
        assert "Yes?<|im_end|>" in marked(data, tokenizer)[0]


@pytest.mark.parametrize("as_text", [False, True])
def test_alpaca_history_is_recognised(made: Made, tmp_path: Path, as_text: bool) -> None:
    tokenizer = made(CHATML)
    history: Any = [["Hi", "Hello."], ["Well?", "Fine."]]
    rows = [
        {"instruction": "Count.", "input": "", "output": f"{n}", "history": json.dumps(history) if as_text else history}
        for n in range(3)
    ]
    data = read(rows, tokenizer, tmp_path)
    assert learned(data, tokenizer)[1] == ["Hello.<|im_end|>", "Fine.<|im_end|>", "1<|im_end|>"]
    assert "history" in data.account.how

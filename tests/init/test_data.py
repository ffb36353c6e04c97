"""init looks at data, chooses what a row is, and writes a recipe that can be read and trained as it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tunesmith.audit.findings import describe
from tunesmith.audit.stage import audit_recipe
from tunesmith.errors import DataError, RecipeError
from tunesmith.init import stage, suggest
from tunesmith.init.stage import from_data, from_nothing
from tunesmith.init.suggest import Suggestion, for_gpu, for_processor
from tunesmith.init.text import held_out_share
from tunesmith.recipe import Recipe


@pytest.fixture(autouse=True)
def tiny_suggestion(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        suggest, "suggest", lambda *, chat: Suggestion(str(tiny_llama), "full", "tiny", (("other/model", "larger"),))
    )


def said(stage_name: str, done: int = 0, total: int | None = None) -> None:
    return None


def rows(path: Path, values: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path.name


def turns(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"What is number {number}?"},
        {"role": "assistant", "content": f"The one before {number + 1}."},
    ]


WORDS = tuple("sea stone light moss river crow lamp winter salt bread gate drum glass fern smoke wool".split())  # noqa: SIM905


def verse(number: int) -> str:
    """Lines that share few words."""
    return " ".join(WORDS[(number * step + step * step) % len(WORDS)] for step in range(1, 9)) + f" {number}"


CASES = {
    "text": ([{"text": verse(n)} for n in range(40)], {"text": "text"}),
    "only one holds text": ([{"id": n, "body": verse(n)} for n in range(40)], {"text": "body"}),
    "several hold text": (
        [{"name": f"poem {n}", "verse": verse(n)} for n in range(40)],
        {"text": "verse"},
    ),
    "messages": ([{"messages": turns(n)} for n in range(40)], {"messages": "messages"}),
    "ShareGPT": (
        [
            {"conversations": [{"from": "human", "value": f"Say {n}"}, {"from": "gpt", "value": f"It is {n}."}]}
            for n in range(40)
        ],
        {"messages": "conversations"},
    ),
    "prompt and completion": (
        [{"prompt": f"Q{n}: ", "completion": f"the answer {n}"} for n in range(40)],
        {"prompt": "prompt", "completion": "completion"},
    ),
    "Alpaca": ([{"instruction": f"Say {n}", "input": "", "output": f"It is {n}."} for n in range(40)], {}),
    "names that YAML would read": (
        [{"yes": n, "on: off #": verse(n)} for n in range(40)],
        {"text": "on: off #"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_row_is_is_chosen_by_looking(case: str, tmp_path: Path) -> None:
    values, keys = CASES[case]
    data = rows(tmp_path / "data.jsonl", values)  # type: ignore[arg-type]
    written = from_data(data, None, said)
    assert written.path == Path("data.yaml")
    section = yaml.safe_load(written.path.read_text(encoding="utf-8"))["data"]
    assert {key: section[key] for key in ("text", "prompt", "completion", "messages") if key in section} == keys
    audited = audit_recipe(Recipe.load(written.path))
    assert audited.num_documents == 40
    assert any(line.startswith("rows: ") for line in written.said), "it says what it chose"


def test_other_columns_stand_as_comments(tmp_path: Path) -> None:
    values = [{"name": f"poem {n}", "verse": f"A long poem {n}.", "kind": "abc"[n % 3]} for n in range(40)]
    text = from_data(rows(tmp_path / "data.jsonl", values), None, said).path.read_text(encoding="utf-8")  # type: ignore[arg-type]
    assert "  # text: name " in text
    assert '  # text: "{name}: {verse}"' in text
    assert "  # slice: kind " in text
    assert "  # name: other/model " in text
    uncommented = "\n".join(
        line.replace("# text:", "text:", 1) if '"{name}: {verse}"' in line else line
        for line in text.splitlines()
        if not line.startswith("  text:")
    )
    assert Recipe.parse(yaml.safe_load(uncommented)).data.text == "{name}: {verse}", "an alternative can be taken"


def test_of_few_rows_more_are_held_out(tmp_path: Path) -> None:
    written = from_data(rows(tmp_path / "data.jsonl", CASES["text"][0]), None, said)  # type: ignore[arg-type]
    assert Recipe.load(written.path).data.eval_fraction == 0.3
    assert not any("Set a larger data.eval_fraction" in line for line in written.said)


def test_of_few_rows_it_says_what_the_recipe_will_find(tmp_path: Path) -> None:
    written = from_data(rows(tmp_path / "data.jsonl", CASES["text"][0]), None, said)  # type: ignore[arg-type]
    found = audit_recipe(Recipe.load(written.path))
    expected = [describe(finding) for finding in (*found.blocks, *found.warnings) if finding.name != "held out"]
    assert expected
    assert list(written.said[-len(expected) :]) == expected


@pytest.mark.parametrize(
    ("num_rows", "share"), [(40, 0.3), (90, 0.3), (150, 0.2), (249, 0.15), (250, 0.1), (5000, 0.1)]
)
def test_as_much_is_held_out_as_a_loss_needs(num_rows: int, share: float) -> None:
    assert held_out_share(num_rows) == pytest.approx(share)


def test_prompts_are_the_datas_own_and_nothing_private(tmp_path: Path) -> None:
    values = [{"prompt": text, "completion": "yes, it is so"} for text in ("mail jane@example.org", "Ask A", "Ask B")]
    written = from_data(rows(tmp_path / "data.jsonl", values * 5), None, said)  # type: ignore[arg-type]
    assert Recipe.load(written.path).compare.prompts == ("Ask A", "Ask B")


def test_csv_folder_glob_and_text_file(tmp_path: Path, shows_csv: Path) -> None:
    text = shows_csv.read_text(encoding="utf-8")
    (tmp_path / "my shows").mkdir()
    for name in ("a", "b"):
        (tmp_path / "my shows" / f"{name}.csv").write_text(text, encoding="utf-8")
    (tmp_path / "lines.txt").write_text("".join(f"Line number {n} of it.\n" for n in range(50)), encoding="utf-8")
    for data, name in (("my shows", "my-shows.yaml"), ("my shows/*.csv", "my-shows.yaml"), ("lines.txt", "lines.yaml")):
        written = from_data(data, None, said, force=True)
        assert str(written.path) == name
        assert Recipe.load(written.path).data.path == data
    assert "1 more file" in from_data("my shows", None, said, force=True).said[0]


def test_what_the_audit_warns_of_stands_in_the_recipe(tmp_path: Path) -> None:
    values = [{"text": "The same poem again and again."}] * 30 + [{"text": f"Poem {n} is new."} for n in range(30)]
    written = from_data(rows(tmp_path / "data.jsonl", values), None, said)  # type: ignore[arg-type]
    assert any("duplicates" in line for line in written.said)
    assert "# Looked at, and worth a thought: " in written.path.read_text(encoding="utf-8")


def test_data_that_cannot_be_split_yet_gets_a_recipe_that_says_so(tmp_path: Path) -> None:
    values = [{"text": f"The same poem about the number {n}."} for n in range(30)]
    written = from_data(rows(tmp_path / "data.jsonl", values), None, said)  # type: ignore[arg-type]
    assert any("data.near_duplicates" in line for line in written.said)
    assert Recipe.load(written.path).data.text == "text"


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    data = rows(tmp_path / "data.jsonl", CASES["text"][0])  # type: ignore[arg-type]
    (tmp_path / "data.yaml").write_text("mine")
    with pytest.raises(RecipeError, match=r"data\.yaml: is there already\. .*--force"):
        from_data(data, None, said)
    assert (tmp_path / "data.yaml").read_text() == "mine"
    assert from_data(data, Path("other.yaml"), said).path == Path("other.yaml")
    from_data(data, None, said, force=True)
    assert Recipe.load("data.yaml").data.text == "text"
    with pytest.raises(RecipeError, match="the folder gone does not exist"):
        from_data(data, Path("gone/r.yaml"), said)


def test_what_is_no_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        from_data("gone.csv", None, said)
    (tmp_path / "axolotl.yml").write_text("base_model: m")
    with pytest.raises(DataError, match=r"tunesmith init --from axolotl\.yml"):
        from_data("axolotl.yml", Path("o.yaml"), said)
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(DataError, match="none holds text"):
        from_data("numbers.csv", None, said)
    with pytest.raises(DataError, match="standard input"):
        from_data("-", None, said)
    assert not list(tmp_path.glob("*.yaml")), "nothing was written"


def test_the_template_is_a_recipe(tmp_path: Path) -> None:
    written = from_nothing(None)
    assert written.path == Path("recipe.yaml")
    assert Recipe.load(written.path).data.path == "data.jsonl"


@pytest.mark.parametrize(
    ("gigabytes", "name", "method"),
    [(80, "1.7B", "full"), (24, "360M", "full"), (8, "135M", "full"), (4, "135M", "lora")],
)
def test_the_model_fits_the_gpu(gigabytes: int, name: str, method: str) -> None:
    found = for_gpu("NVIDIA X", gigabytes * 10**9, chat=False)
    assert (name in found.name, found.method) == (True, method)
    assert for_gpu("NVIDIA X", gigabytes * 10**9, chat=True).name == f"{found.name}-Instruct"


def test_a_processor_takes_the_embedded_model() -> None:
    assert for_processor(16 * 10**9, has_embedded=True, chat=False).name == "smollm2-135m"
    assert for_processor(3 * 10**9, has_embedded=True, chat=False).method == "lora"
    assert for_processor(16 * 10**9, has_embedded=False, chat=True).name == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("shows.csv.gz", "shows.yaml"),
        ("a/b/poems.jsonl", "poems.yaml"),
        ("hub:owner/name:train", "name.yaml"),
        ("a/*/b*.csv", "a.yaml"),
        ("https://example.org/x/data.parquet", "data.yaml"),
        ("texts/", "texts.yaml"),
        ("my data (1).csv", "my-data-1.yaml"),
    ],
)
def test_the_recipe_is_named_after_the_data(data: str, name: str) -> None:
    assert stage._name_for(data) == name

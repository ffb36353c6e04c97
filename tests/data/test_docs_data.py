"""The messages in docs/data.md are the messages that users see."""

from __future__ import annotations

import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from tunesmith.data import prepare
from tunesmith.errors import DataError
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.recipe import Recipe

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
WRONG = PAGE[PAGE.index("## What goes wrong") : PAGE.index("## Large files")]
EXAMPLES = re.findall(r"^    \$ (tunesmith data .*)\n    (.*)$", WRONG, re.MULTILINE)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 7


@pytest.mark.parametrize(("command", "message"), EXAMPLES, ids=[message for _, message in EXAMPLES])
def test_messages_are_as_printed(
    tokenizer: TextTokenizer,
    shows_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(shows_csv, "shows.csv")
    plain = "".join(f"T{row},A plain story number {row}.\n" for row in range(8807))
    Path("latin.csv").write_bytes(f"title,description\n{plain}Amélie,Le fabuleux destin.\n".encode("latin-1"))
    Path("mixed.csv").write_bytes(
        "title,description\nA,Zoë sails\nB,A café by the sea\nC,The long way to Tórshavn\n".encode()
        + b"D,J\xf8rgen waits\n"
    )
    Path("columns.json").write_text('{"description": {"0": "one", "1": "two"}}')
    lines = ['{"description": "one"}', '{"description": "two"}', '{"text": "two" "x": 1}', ""]
    Path("broken.jsonl").write_text("\n".join(lines))
    recipe = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert recipe is not None
    Path("shows.yaml").write_text(recipe[1])
    words = shlex.split(command)
    overrides = [value for flag, value in pairwise(words) if flag == "--set"]
    section = Recipe.load("shows.yaml", overrides).data
    with pytest.raises(DataError) as caught:
        prepare(section, tokenizer, 128)
    assert str(caught.value) == message

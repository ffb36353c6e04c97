"""What the page asks for: what it may offer, training rows beside texts, blind pairs and votes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'tunesmith[serve]'")
pytest.importorskip("prometheus_client", reason="needs the extra: pip install 'tunesmith[serve]'")

from tunesmith.run.artefacts import Vote
from tunesmith.run.directory import VOTES, RunDir
from tunesmith.serve.playground import _in_utf16
from tunesmith.serve.votes import MAX_OPEN_PAIRS, Ballot, read_votes


def test_what_the_page_shows_of_a_run(served: Any) -> None:
    about = served.ask("GET", "/playground/about").json
    assert about["models"] == ["tuned", "base"]
    assert about["prompts"] == ["One fine morning"]
    assert about["has_rows"]
    assert about["has_blind_test"]
    assert not about["asks_in_turns"]
    openings = served.ask("GET", "/playground/openings").json
    assert 4 <= len(openings["openings"]) <= 12
    assert openings["why"] is None


def test_what_the_page_shows_of_a_model(chat_server: Any, chat_llama: Path) -> None:
    about = chat_server.ask("GET", "/playground/about").json
    assert about["models"] == ["tuned"]
    assert about["name"] == chat_llama.name
    assert not about["has_blind_test"]
    assert not about["has_rows"]
    assert chat_server.ask("GET", "/playground/standing").status == 400
    assert chat_server.ask("POST", "/playground/pairs", {"prompt": "a"}).status == 400
    assert "no run" in chat_server.ask("POST", "/playground/rows", {"texts": ["a"]}).json["why"]


def test_training_rows_beside_a_text(served: Any, shows_csv: Path) -> None:
    found = served.ask("POST", "/playground/rows", {"texts": ["zzz"]}).json
    assert found["rows"][0]["nearest"] is None
    whole = next(
        found
        for line in shows_csv.read_text(encoding="utf-8").splitlines()[1:30]
        if (found := served.ask("POST", "/playground/rows", {"texts": [line]}).json["rows"][0])["copied"]
    )
    assert whole["copied_from"]["row"].startswith("shows.csv:")
    assert whole["longest_copy"] >= 8
    assert whole["nearest"]["similarity"] > 0.5


def test_data_that_is_gone_is_told(lora_run: Path, tmp_path: Path) -> None:
    import shutil

    from tunesmith.models.find import find_model
    from tunesmith.models.tokenizer import load_tokenizer
    from tunesmith.serve.rows import Rows

    run = tmp_path / "moved"
    shutil.copytree(lora_run, run)
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("shows.csv", "gone.csv"))
    run_dir = RunDir.open(run)
    rows = Rows(run_dir, load_tokenizer(find_model(run_dir.recipe().model.name)))
    rows.start()
    rows.wait()
    assert "gone.csv" in str(rows.why)
    assert rows.look_up(["a"]) == []


def test_spans_are_counted_as_a_browser_does() -> None:
    text = "a\N{FACE WITH TEARS OF JOY}bc"
    [(start, end)] = _in_utf16(text, ((2, 4),))
    assert text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le") == "bc"


# ---------------------------------------------------------------------------------------------------------- blind test


def test_a_vote_is_kept_in_the_run_and_tells_which_was_which(served: Any) -> None:
    run_dir = RunDir.open(served.run_path)
    before = len(read_votes(run_dir))
    told = []
    for choice in ("a", "b", "tie"):
        pair = served.ask("POST", "/playground/pairs", {"prompt": "A boy", "max_tokens": 6, "seed": 3}).json
        assert set(pair) == {"name", "a", "b"}
        kept = served.ask("POST", "/playground/votes", {"name": pair["name"], "choice": choice}).json
        told.append((choice, kept["tuned"], pair))
        again = served.ask("POST", "/playground/votes", {"name": pair["name"], "choice": choice})
        assert again.status == 400
    votes = read_votes(run_dir)[before:]
    for vote, (choice, tuned, pair) in zip(votes, told, strict=True):
        assert vote.choice == ("tie" if choice == "tie" else "tuned" if choice == tuned else "base")
        assert vote.tuned == pair[tuned]
        assert (vote.prompt, vote.seed, vote.max_new_tokens) == ("A boy", 3, 6)
    standing = served.ask("GET", "/playground/standing").json
    counted = Counter(vote.choice for vote in read_votes(run_dir))
    assert (standing["wins"], standing["losses"], standing["ties"]) == tuple(
        counted[name] for name in ("tuned", "base", "tie")
    )
    assert standing["low"] < standing["win_rate"] < standing["high"]
    assert run_dir.file(VOTES).stat().st_mode & 0o077 == 0


@pytest.fixture
def ballot(lora_run: Path, tmp_path: Path) -> Ballot:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_bytes((lora_run / "recipe.yaml").read_bytes())
    return Ballot(RunDir.open(tmp_path / "run"))


def offer(ballot: Ballot) -> tuple[str, Any]:
    from tunesmith.generate.text import Decoding

    return ballot.offer("p", "tuned text", "base text", 1, Decoding(4))


def test_sides_are_shuffled(ballot: Ballot) -> None:
    sides = Counter(offer(ballot)[1].tuned for _ in range(200))
    assert min(sides["a"], sides["b"]) > 50


def test_open_pairs_are_bounded(ballot: Ballot) -> None:
    first, _ = offer(ballot)
    last = [offer(ballot)[0] for _ in range(MAX_OPEN_PAIRS)][-1]
    ballot.vote(last, "tie")
    with pytest.raises(Exception, match="not known"):
        ballot.vote(first, "tie")


def test_lines_that_cannot_be_read_are_left_out(ballot: Ballot) -> None:
    name, _ = offer(ballot)
    ballot.vote(name, "tie")
    path = ballot.run_dir.file(VOTES)
    path.write_text(path.read_text() + '{"time": 1}\n{"cut\n' + json.dumps({"version": 1}) + "\n")
    assert ballot.standing().num_choices == 1
    assert isinstance(read_votes(ballot.run_dir)[0], Vote)


def test_no_vote_says_so(ballot: Ballot) -> None:
    assert ballot.standing().win_rate is None

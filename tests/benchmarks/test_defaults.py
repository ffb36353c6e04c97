"""Trials of settings begin alike and are tried as they say; the page's tables are what the trials left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trials(benchmarks: Path) -> Any:
    from harness import trials

    return trials


@pytest.fixture
def bench(trials: Any, tiny_llama: Path) -> Any:
    return trials.Bench(Path("nowhere"), str(tiny_llama))


USUAL = {"text": "shows", "rows": 40, "tokens_per_step": 400, "learning_rate": 5e-3}


def test_every_trial_begins_with_the_same_weights(trials: Any, bench: Any) -> None:
    first = bench.run(trials.Setting(**USUAL), 2)
    other = bench.run(trials.Setting(**USUAL, beta2=0.9, ema=0.5), 1)
    again = bench.run(trials.Setting(**USUAL), 2)
    assert first == again
    assert first.num_steps == len(first.train_loss) == first.evaluations[-1][0]
    assert first.evaluations[-1][1] == first.tokens
    assert first.evaluations[-1][2] < first.base_loss
    assert other.evaluations[-1][2] != first.evaluations[-1][2]
    assert other.average_loss not in (None, other.evaluations[-1][2])


def test_rates_of_parts(trials: Any, bench: Any) -> None:
    bench.run(trials.Setting(**USUAL, embedding_rate=0.0, layer_decay=0.5, noise=5.0), 1)
    embedding = bench.model.get_input_embeddings().weight
    moved = [bool((parameter != before).any()) for parameter, before in bench.start if parameter is not embedding]
    assert all(moved)
    assert [bool((parameter == before).all()) for parameter, before in bench.start if parameter is embedding] == [True]
    assert trials._times("model.layers.0.mlp.up_proj.weight", trials.Setting(layer_decay=0.5), bench.model) == 0.5
    lora = bench.run(trials.Setting(**USUAL, method="lora", rank=4), 1)
    assert lora.evaluations[-1][2] < lora.base_loss


def test_a_stable_schedule_falls_at_its_end(trials: Any) -> None:
    setting = trials.Setting(schedule="wsd", warmup=0.1)
    shares = [trials._share(setting, step, 20) for step in range(20)]
    assert shares[0] < shares[1] < shares[2] == shares[10] == 1.0
    assert shares[-1] == pytest.approx(1 / 7)
    assert sorted(shares[13:], reverse=True) == shares[13:]


def test_values_are_tried_with_each_other(benchmarks: Path) -> None:
    import defaults  # type: ignore[import-not-found]

    found = list(defaults._products(["seed=1,2", "rank=4", "/", "seed=3"]))
    assert found == [{"seed": "1", "rank": "4"}, {"seed": "2", "rank": "4"}, {"seed": "3"}]


def test_a_table_is_written_where_the_page_says_so(trials: Any, bench: Any, tmp_path: Path) -> None:
    from harness.defaults_page import rewritten

    lines = [bench.run(trials.Setting(text="shows", rows=40, **more), 1) for more in ({}, {"rank": 8, "ema": 0.5})]
    (tmp_path / "one.jsonl").write_text("".join(line.text() + "\n" for line in lines), encoding="utf-8")
    page = "before\n<!-- table: one -->\nold\n<!-- end -->\n<!-- table: none -->\n<!-- end -->\nafter\n"
    written = rewritten(page, tmp_path)
    assert "old" not in written
    assert rewritten(written, tmp_path) == written
    usual, tried, average = (row for row in written.splitlines() if row.startswith("| shows, 40 rows"))
    assert "the defaults" in usual
    assert f"→ {lines[0].evaluations[-1][2]:.3f} |  |" in usual
    assert "rank 8, ema 0.5 |" in tried
    assert f"→ {lines[1].average_loss:.3f}" in average


def test_the_tables_of_the_page_are_what_the_trials_left(benchmarks: Path) -> None:
    from harness.defaults_page import rewritten

    page = (ROOT / "docs" / "defaults.md").read_text(encoding="utf-8")
    assert rewritten(page, ROOT / "docs" / "defaults") == page, "python benchmarks/defaults.py --tables"

"""The command line: help, exit codes, one message without a traceback, JSON that is JSON."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tunesmith.cli import app
from tunesmith.machine.gpus import gpus
from tunesmith.machine.prices import typical_prices
from tunesmith.show.plan import print_gpus

COMMANDS = [
    "demo",
    "init",
    "train",
    "doctor",
    "plan",
    "gpus",
    "data",
    "compare",
    "runs",
    "watch",
    "status",
    "attach",
    "stop",
    "generate",
    "chat",
    "serve",
    "eval",
    "report",
    "export",
    "sweep",
    "launch",
    "schema",
]


def tunesmith(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunesmith", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=dict(os.environ))


def test_help_lists_every_command() -> None:
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    assert re.findall(r"^  (\w+) ", done.output.split("Commands:")[1], re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"])
    assert done.exit_code == 0
    assert "Example: tunesmith" in done.output


def test_what_the_user_can_fix_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: {name: m}\ndata: {path: a.csv}\ntrain: {learning_rte: 1}\n")
    done = tunesmith("train", "r.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "r.yaml: train.learning_rte: unknown key. Did you mean train.learning_rate?\n"
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.yaml"]


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = tunesmith("--debug", "report", "nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "RunError" in done.stderr


def test_secrets_are_hidden_in_messages(tmp_path: Path) -> None:
    secret = "hf_" + "a1B2" * 8
    (tmp_path / "r.yaml").write_text(f"model: {{name: ./{secret}}}\ndata: {{path: a.csv}}\n")
    done = tunesmith("train", "r.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert secret not in done.stdout + done.stderr


def test_data_prints_json(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    recipe = f"model: {{name: {tiny_llama}}}\ndata: {{path: {shows_csv}, text: description, max_rows: 60}}\n"
    (tmp_path / "r.yaml").write_text(recipe)
    done = CliRunner().invoke(app, ["data", str(tmp_path / "r.yaml"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["blocks"] == 0


def test_eval_scores_every_row_of_a_file(tiny_llama: Path, shows_csv: Path, tmp_path: Path) -> None:
    rows = shows_csv.read_text(encoding="utf-8").splitlines()[:11]
    (tmp_path / "ten.csv").write_text("\n".join(rows), encoding="utf-8")
    arguments = ["eval", str(tiny_llama), "--data", str(tmp_path / "ten.csv"), "--text", "description", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    scores = json.loads(done.stdout)
    assert scores["num_documents"] == 10
    assert 6 < scores["loss"] < 7  # random weights over 512 tokens: ln 512 = 6.24


def test_runs_of_an_empty_folder(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["runs", str(tmp_path)])
    assert done.exit_code == 0
    assert "no runs here yet" in " ".join(done.output.split())


def test_plan_prints_json_without_weights(shows_csv: Path, tmp_path: Path) -> None:
    recipe = f"model: {{name: EleutherAI/gpt-neo-125m}}\ndata: {{path: {shows_csv}, text: description}}\n"
    (tmp_path / "r.yaml").write_text(recipe)
    done = CliRunner().invoke(app, ["plan", str(tmp_path / "r.yaml"), "--gpu", "l4", "--price", "0.8", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)


def test_gpus_are_listed_with_what_they_hold_and_cost() -> None:
    done = CliRunner().invoke(app, ["gpus", "--json"])
    assert done.exit_code == 0, done.output
    rows = {row["key"]: row for row in json.loads(done.stdout)["gpus"]}
    assert rows["a40"]["name"] == "NVIDIA A40"
    assert all(row["source"].startswith("https://") for row in rows.values())
    assert rows["l4"]["price_per_hour"] > 0
    shown = CliRunner().invoke(app, ["gpus"]).output
    assert "NVIDIA A40" in shown
    assert "typical prices of" in shown
    assert rows["l4"]["price_date"] < rows["h100-sxm"]["price_date"]
    assert (rows["a40"]["price_per_hour"], rows["a40"]["price_source"]) == (None, None)


def test_the_table_of_gpus_fits_a_terminal_of_80_columns() -> None:
    out = io.StringIO()
    print_gpus(gpus(), typical_prices(), Console(file=out, width=80))
    table = out.getvalue().split("An hour:")[0]
    assert "\u2026" not in table
    for gpu in gpus():
        (row,) = [line for line in table.splitlines() if line.startswith(f"{gpu.key} ")]
        assert f"{gpu.memory_bytes / 2**30:.1f}" in row


def test_eval_wants_data_or_tasks(tiny_llama: Path) -> None:
    for arguments in ([], ["--data", "a.csv", "--tasks", "b"]):
        done = CliRunner().invoke(app, ["eval", str(tiny_llama), *arguments])
        assert done.exit_code == 2
        assert "--tasks" in done.output


def test_init_writes_a_recipe_and_names_three_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["init"])
    assert done.exit_code == 0
    told = [line.split("#")[0].strip() for line in done.stdout.splitlines()]
    assert told == [
        "wrote recipe.yaml; next:",
        "tunesmith data recipe.yaml",
        "tunesmith plan recipe.yaml",
        "tunesmith train recipe.yaml --small",
    ]
    assert (tmp_path / "recipe.yaml").is_file()


def test_init_from_another_tool_says_where_its_runs_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "axolotl.yml").write_text("base_model: m\noutput_dir: ./out put\nrl: dpo\n")
    done = CliRunner().invoke(app, ["init", "--from", "axolotl.yml", "-o", "r.yaml"])
    assert done.exit_code == 0
    assert "tunesmith train r.yaml --out './out put'" in done.stdout
    assert "left out: rl: dpo" in done.stderr
    assert CliRunner().invoke(app, ["init", "a.csv", "--from", "b.yml"]).exit_code == 2


def test_shells_can_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).stdout
    monkeypatch.setenv("_TUNESMITH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "tunesmith in")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert CliRunner().invoke(app, [], prog_name="tunesmith").stdout.split() == ["init"]

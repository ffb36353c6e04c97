"""Data larger than memory: a synthetic JSON Lines file, audited and trained on for a few steps.

    python benchmarks/large_jsonl.py                          # 2 GB
    python benchmarks/large_jsonl.py --gigabytes 0.2

Prints rows and tokens per second of each stage, per core, beside what `tokenizers` alone gives on the same text, and
the most memory that all processes held together. The model is a toy with GPT-2's vocabulary: its speed says nothing.
Linux only, as it reads /proc. The file and the cache (about four times its size) are deleted at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from harness.documents import save_gpt2_tokenizer
from harness.shapes import Shape, build
from harness.synthetic import texts, write_rows

BASELINE_ROWS = 10_000
HELD_OUT_BYTES = 200_000
TOY = Shape("large-jsonl", "neo", 32, 2, 4, 64, positions=1024)
RECIPE = """model: {{name: {model}}}
data:  {{path: {rows}, eval_fraction: {held_out}}}
train: {{max_steps: 3, tokens_per_step: 4096, rehearse: false}}
eval:  {{every: 1000000}}
compare: {{num_samples: 1}}
"""


def main() -> int:
    options = parse_arguments()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return 0
    folder: Path = options.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        results = run(folder, int(options.gigabytes * 1e9))
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print_results(results)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=Path("runs/large-jsonl"), help="emptied first")
    parser.add_argument("--keep", action="store_true", help="leave the file and the cache")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def run(folder: Path, num_bytes: int) -> dict[str, Any]:
    rows, model, recipe = folder / "rows.jsonl", folder / "model", folder / "large.yaml"
    num_rows = write_rows(rows, num_bytes)
    save_gpt2_tokenizer(model)
    build(TOY).save_pretrained(model)
    recipe.write_text(
        RECIPE.format(model=model, rows=rows, held_out=min(0.1, HELD_OUT_BYTES / num_bytes)), encoding="utf-8"
    )
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    results = {"bytes": rows.stat().st_size, "rows": num_rows, "tokenizers_alone": tokenizers_alone(model, num_rows)}
    results["data"] = json.loads(call(__file__, "--measure", recipe))
    results["cache_bytes"] = sum(file.stat().st_size for file in (folder / "cache").rglob("*") if file.is_file())
    results["second_data_seconds"] = seconds(lambda: call("-m", "tunesmith", "data", recipe, "--json"))
    command = ("-m", "tunesmith", "train", recipe, "--out", folder / "run", "--json")
    results["train_seconds"] = seconds(lambda: results.update(train=json.loads(call(*command))))
    return results


def call(*words: object) -> str:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def seconds(function: Any) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def tokenizers_alone(model: Path, num_rows: int) -> dict[str, float]:
    """Tokens per CPU second of the library that the ids come from, on one core, whole texts in batches of 512.

    num_rows: of the file; as many are taken, 10,000 at most.
    """
    from tokenizers import Tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    source = texts()
    batches = [list(islice(source, 512)) for _ in range(max(1, min(num_rows, BASELINE_ROWS) // 512))]
    num_tokens, begin = 0, time.process_time()
    for batch in batches:
        num_tokens += sum(len(part.ids) for part in tokenizer.encode_batch_fast(batch, add_special_tokens=False))
    used = time.process_time() - begin
    return {"tokens": num_tokens, "cpu_seconds": used, "tokens_per_cpu_second": num_tokens / used}


def measure(recipe: Path) -> dict[str, Any]:
    """What `tunesmith data` does, with the seconds of each stage (on the clock, and of all cores) and the memory."""
    from tunesmith.audit.stage import audit_recipe
    from tunesmith.machine.heap import use_huge_pages
    from tunesmith.recipe import Recipe

    use_huge_pages()
    marks = [("reading rows", time.perf_counter(), cpu_seconds())]

    def watch(stage: str, done: int, total: int | None) -> None:
        if marks[-1][0] != stage:
            marks.append((stage, time.perf_counter(), cpu_seconds()))

    with Memory() as memory:
        report = audit_recipe(Recipe.load(recipe), progress=watch)
        watch("end", 0, None)
    stages = {
        stage: {"seconds": after - before, "cpu_seconds": cpu_after - cpu_before}
        for (stage, before, cpu_before), (_, after, cpu_after) in pairwise(marks)
    }
    num_tokens = sum(token_counts(recipe))
    findings = {finding.name: finding.status for finding in report.findings}
    return {
        "stages": stages,
        "tokens": num_tokens,
        "audit_seconds": report.seconds,
        "peak_bytes": memory.peak,
        "peak_anonymous_bytes": memory.peak_anonymous,
        "findings": findings,
    }


def token_counts(recipe: Path) -> list[int]:
    """Tokens of each split, from the cache."""
    from tunesmith.data import prepare
    from tunesmith.models.find import find_model
    from tunesmith.models.tokenizer import load_tokenizer
    from tunesmith.recipe import Recipe

    asked = Recipe.load(recipe)
    data = prepare(asked.data, load_tokenizer(find_model(asked.model.name)), 1024)
    return [split.tokens for split in data.account.splits.values()]


def cpu_seconds() -> float:
    """Of this process and its children, which are counted when they end: with their stage."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


class Memory:
    """Looks ten times a second at what this process and its children hold, together. Pages of files count in `peak`
    while they are mapped, though the system takes them back when it needs room."""

    def __init__(self) -> None:
        self.peak = self.peak_anonymous = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.ended.wait(0.1):
            held = [resident(process) for process in (os.getpid(), *children())]
            self.peak = max(self.peak, sum(whole for whole, _ in held))
            self.peak_anonymous = max(self.peak_anonymous, sum(anonymous for _, anonymous in held))


def children() -> list[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(number) for task in tasks for number in read(task).split()]


def resident(process: int) -> tuple[int, int]:
    """Bytes that a process holds: all, and without pages of files."""
    values = dict(line.split(":", 1) for line in read(Path(f"/proc/{process}/status")).splitlines())
    whole, anonymous = (int(values.get(key, "0 kB").split()[0]) * 1024 for key in ("VmRSS", "RssAnon"))
    return whole, anonymous


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it ended meanwhile
        return ""


def print_results(results: dict[str, Any]) -> None:
    data = results["data"]
    print(f"{results['bytes'] / 1e9:.2f} GB, {results['rows']:,} rows, {data['tokens']:,} tokens\n")
    print("| stage | seconds | CPU seconds | rows/s | tokens/s per core |\n|---|---|---|---|---|")
    for stage, spent in data["stages"].items():
        per_core = data["tokens"] / spent["cpu_seconds"]
        rows = results["rows"] / spent["seconds"]
        print(f"| {stage} | {spent['seconds']:.0f} | {spent['cpu_seconds']:.0f} | {rows:,.0f} | {per_core:,.0f} |")
    alone = results["tokenizers_alone"]["tokens_per_cpu_second"]
    ours = data["tokens"] / data["stages"]["tokenising rows"]["cpu_seconds"]
    print(f"\n`tokenizers` alone, one core: {alone:,.0f} tokens/s; tunesmith {ours / alone:.2f} times that.")
    print(
        f"Peak memory of all processes together: {data['peak_bytes'] / 1e6:,.0f} MB, without pages of files "
        f"{data['peak_anonymous_bytes'] / 1e6:,.0f} MB."
    )
    print(
        f"Cache: {results['cache_bytes'] / 1e9:.2f} GB. Again, from the cache: {results['second_data_seconds']:.0f} s."
    )
    train = results["train"]
    print(f"Then {train['steps']} training steps: {results['train_seconds']:.0f} s, loss {train['train_loss']:.2f}.")


if __name__ == "__main__":
    sys.exit(main())

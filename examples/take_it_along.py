"""A run leaves for other programs: python examples/take_it_along.py runs/example

Merged where it was an adapter, written, loaded again by the program that will read it, and compared before it is done.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tunesmith


def main(arguments: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--format", default="safetensors", help="or gguf, for llama.cpp and Ollama")
    asked = parser.parse_args(arguments)

    run = tunesmith.Run(Path(asked.run))
    exported = run.export(asked.format)
    for trip in exported.record.round_trips:
        print(f"loaded by {trip.engine}: loss {trip.loss:.4f}, expected {trip.expected_loss:.4f}")

    if asked.format == "safetensors":  # plain transformers, without tunesmith
        from transformers import pipeline

        write = pipeline("text-generation", str(exported.path))
        print(write("One fine morning", max_new_tokens=20, do_sample=True)[0]["generated_text"])
    return Path(exported.path)


if __name__ == "__main__":
    main()

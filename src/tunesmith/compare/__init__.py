"""See what changed: base against tuned, same prompts, same seeds, same decoding; written to compare.json."""

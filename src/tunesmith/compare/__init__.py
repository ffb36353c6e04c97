"""See what changed: base against tuned, same prompts, same seeds, same decoding; written to compare.json.

stage.py       compare(run_dir) -> compare.json
prompts.py     what both models are asked to continue
observe.py     one model at a time: what it writes, what it loses (the only module that needs torch)
scores.py      texts in, numbers out; style.py, copying.py, losses.py, intervals.py, words.py
samples.py     what both and the real rows hold for each prompt, and what of it is copied
general.py     the general texts on which forgetting is measured
blind.py       a person chooses without knowing which is tuned; lm_eval.py: public benchmarks
"""

from __future__ import annotations

from tunesmith.compare.stage import compare

__all__ = ["compare"]

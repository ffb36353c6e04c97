"""The training rows beside a text: the nearest one, and what stands in any of them word for word."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tunesmith.compare.prompts import held_out_prompts
from tunesmith.compare.samples import TrainingRows, look_up
from tunesmith.data.again import prepare_again
from tunesmith.errors import TunesmithError
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.redact import redact
from tunesmith.run.artefacts import NamedRow, Wrote
from tunesmith.run.directory import RunDir

NUM_OPENINGS = 12


class Rows:
    """A run's training rows, read in a thread of its own. `why` says why there are none, once that is known."""

    def __init__(self, run_dir: RunDir, tokenizer: TextTokenizer) -> None:
        self.run_dir, self.tokenizer = run_dir, tokenizer
        self.why: str | None = None
        self.notes: list[str] = []
        self.openings: list[str] = []
        """How held-out rows begin."""
        self._rows: TrainingRows | None = None
        self._ready = threading.Event()
        self._one_at_a_time = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._read, name="tunesmith-rows", daemon=True).start()

    def wait(self) -> None:
        """Until they are read, or it is known that they cannot be."""
        self._ready.wait()

    def _read(self) -> None:
        try:
            data = prepare_again(self.run_dir, self.run_dir.recipe(), self.tokenizer, self.notes, lambda *_, **__: None)
            rows = TrainingRows(data.train, self.tokenizer)
            rows.nearest(["warm"])
            self._rows = rows
            if len(data.eval):
                section = self.run_dir.recipe().compare.model_copy(update={"num_samples": 2 * NUM_OPENINGS})
                asked = held_out_prompts(data.eval, self.tokenizer, section)
                self.openings = [redact(prompt.text) for prompt in asked if prompt.text][:NUM_OPENINGS]
        except (TunesmithError, OSError) as error:
            self.why = redact(str(error))
        finally:
            if self._rows is None and self.why is None:
                self.why = "The training rows could not be read."
            self._ready.set()

    def look_up(self, texts: Sequence[str]) -> list[Wrote]:
        """What each text shares with the training rows. Waits until they are read; without rows, nothing."""
        self._ready.wait()
        if self._rows is None:
            return []
        with self._one_at_a_time:  # each search goes through all rows
            return [self._by_name(wrote) for wrote in look_up([(text, False) for text in texts], self._rows)]

    def _by_name(self, wrote: Wrote) -> Wrote:
        """Without places of this machine."""
        rows = {"nearest": wrote.nearest, "copied_from": wrote.copied_from}
        named = {
            name: row and NamedRow.model_validate(self.run_dir.places.by_name(row.to_json()))
            for name, row in rows.items()
        }
        return wrote.model_copy(update=named)

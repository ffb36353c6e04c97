"""Texts that the model in training writes at each evaluation. Nothing of it touches what is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.compare.prompts import recipe_prompts
from tunesmith.data.rows.chat import ChatTemplate
from tunesmith.errors import Stopped
from tunesmith.generate.text import generate
from tunesmith.machine.memory import release_memory
from tunesmith.models.tokenizer import TextTokenizer
from tunesmith.recipe import CompareSection
from tunesmith.redact import first_line, redact
from tunesmith.run.artefacts import WrittenText
from tunesmith.training.checkpoints.state import rng_state, set_rng_state

MAX_TOKENS = 24
"""Of one text: enough to see a style, and short beside an evaluation."""


@dataclass
class Samples:
    """Continues the same prompts with the same draws each time, in the arithmetic of the steps.

    What goes wrong here is told to `note` once, and no text is written from then on; it never ends a run.
    """

    model: Any
    tokenizer: TextTokenizer
    prompts: Sequence[str]
    """Empty: nothing is written."""
    section: CompareSection
    chat: ChatTemplate | None
    """Of a run on conversations, where a prompt is a user's turn."""
    arithmetic: Callable[[], contextlib.AbstractContextManager[Any]]
    note: Callable[[str], None]

    def write(self) -> tuple[WrittenText, ...]:
        """A text a prompt. Weights, random numbers and the model's mode are as before."""
        if not self.prompts:
            return ()
        random_state = rng_state()
        try:
            with self.arithmetic():
                return self._write()
        except Stopped:
            raise
        except Exception as error:  # whatever a model does when it writes, it was training that was asked for
            self.prompts = ()
            self.note(f"eval.samples: no text could be written ({first_line(error)}); the run goes on without")
            return ()
        finally:
            self.model.train()
            set_rng_state(random_state)
            release_memory()

    def _write(self) -> tuple[WrittenText, ...]:
        once = self.section.model_copy(update={"temperature": 0.0})  # a prompt is asked once then
        asked = recipe_prompts(once, self.prompts, self.chat)
        texts = generate(
            self.model,
            self.tokenizer,
            [prompt.ids or prompt.text for prompt in asked],
            max_new_tokens=min(MAX_TOKENS, self.section.max_new_tokens),
            temperature=self.section.temperature,
            top_p=self.section.top_p,
            seed=self.section.seed,
        )
        return tuple(
            WrittenText(
                prompt=redact(prompt.text),
                text=redact(text.text),
                ended=text.ended,
                is_answer=prompt.ids is not None,
            )
            for prompt, text in zip(asked, texts, strict=True)
        )

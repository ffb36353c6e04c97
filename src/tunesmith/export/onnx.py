"""A graph for onnxruntime: logits of token ids, any number of rows and tokens. It keeps no cache of keys and values."""

from __future__ import annotations

import importlib.util
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from tunesmith.compat import quiet_transformers
from tunesmith.errors import ModelError
from tunesmith.export.check import Engine, check_passed, observe, round_trip
from tunesmith.export.job import Job, Proof

PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def check_packages() -> None:
    """Raise ModelError that names the extra when a package is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"export --format onnx: {', '.join(missing)} not installed. Run: pip install 'tunesmith[onnx]'"
        )


def export_onnx(job: Job, model: Any) -> Proof:
    """Write model.onnx and the tokenizer, run it in onnxruntime and compare. Raises ModelError with what differed."""
    path = job.folder / "model.onnx"
    job.say("tracing the graph")
    _trace(model, path)
    job.tokenizer.save(job.folder)
    job.say("running it in onnxruntime")
    started = time.monotonic()
    found = observe(_Session(path, model.config), job.rows, job.begun)
    engine = Engine(f"onnxruntime {metadata.version('onnxruntime')}", time.monotonic() - started)
    trip = round_trip(engine, job.tuned, found, job.rows, "f32")
    check_passed(trip, "--format onnx")
    use = (
        "```python\nimport onnxruntime\nsession = onnxruntime.InferenceSession('model.onnx')\n"
        "logits = session.run(None, {'input_ids': ids})[0]  # ids: int64 [rows, tokens]\n```"
    )
    context = getattr(model.config, "max_position_embeddings", None)
    vocabulary = model.get_input_embeddings().num_embeddings
    return Proof("f32", type(model).__name__, vocabulary, context, (trip,), None, "onnx", use)


def _trace(model: Any, path: Path) -> None:
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any) -> Any:
            return self.model(input_ids=input_ids, use_cache=False).logits

    rows, tokens = torch.export.Dim("rows", min=1, max=64), torch.export.Dim("tokens", min=2, max=4096)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and limit < 4096:
        tokens = torch.export.Dim("tokens", min=2, max=limit)
    with quiet_transformers(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits().eval(),
            (torch.ones(2, 8, dtype=torch.int64),),
            path,
            input_names=["input_ids"],
            output_names=["logits"],
            dynamic_shapes={"input_ids": {0: rows, 1: tokens}},
            dynamo=True,
            verbose=False,
            external_data=True,
        )


class _Session:
    """The graph, called as a model of transformers is."""

    def __init__(self, path: Path, config: Any) -> None:
        import onnxruntime
        import torch

        self.config = config
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._parameter = torch.zeros(1)

    def parameters(self) -> Any:
        return iter([self._parameter])

    def __call__(self, input_ids: Any) -> Any:
        import torch
        from transformers.utils import ModelOutput

        logits = self._session.run(None, {"input_ids": input_ids.numpy()})[0]
        return ModelOutput(logits=torch.from_numpy(logits))

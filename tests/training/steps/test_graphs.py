"""Recorded steps: the same numbers as steps launched one operation after another, and given up where they cannot be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith import Recipe
from tunesmith.pipeline import prepare_inputs
from tunesmith.plan import detect_machine, make_plan
from tunesmith.run.directory import RunDir
from tunesmith.run.observer import Silent
from tunesmith.run.recorder import Recorder
from tunesmith.run.signals import StopRequest
from tunesmith.training import Job, _loop, build_model, rehearsal
from tunesmith.training.checkpoints.checkpoint import newest_valid_checkpoint
from tunesmith.training.loop import Loop
from tunesmith.training.rehearsal import rehearse, time_steps
from tunesmith.training.steps.capture import Call, CallAgain, CudaCapture

TRAIN = {
    "tokens_per_step": 640,
    "max_length": 96,
    "learning_rate": 5e-3,
    "precision": "fp32",
    "epochs": 2,
    "max_steps": 12,
}


class Notes(Silent):
    def __init__(self) -> None:
        self.notes = list[str]()

    def note(self, message: str) -> None:
        self.notes.append(message)


class Never(CallAgain):
    """A device that records nothing."""

    def record(self, call: Call, *, apart: bool = False) -> Call:
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    def record_pass(self, call: Call, trained: Any) -> Call:
        return self.record(call)


class Counting(CallAgain):
    """Counts what is recorded and replayed."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def record(self, call: Call, *, apart: bool = False) -> Call:
        self.recorded += 1

        def replay() -> torch.Tensor:
            self.replayed += 1
            return call()

        return replay

    def record_pass(self, call: Call, trained: Any) -> Call:
        return self.record(call)


class Wrong(CallAgain):
    """Replays that come close: what a later kernel does otherwise."""

    def record_pass(self, call: Call, trained: Any) -> Call:
        def replay() -> torch.Tensor:
            loss = call()
            trained[0].grad.mul_(1 + 1e-6)
            return loss

        return replay


class HalfOnly(CallAgain):
    """Passes are recorded, updates are not."""

    def record(self, call: Call, *, apart: bool = False) -> Call:
        raise RuntimeError("no such luck")


class Full(CallAgain):
    """Memory runs out in a replay: when recordings are checked, or in a step."""

    def __init__(self, replays: int) -> None:
        self.left = replays

    def record_pass(self, call: Call, trained: Any) -> Call:
        def replay() -> torch.Tensor:
            self.left -= 1
            if self.left < 0:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return call()

        return replay


@pytest.fixture(scope="module")
def new_loop(
    tiny_gpt_neo: Path, tiny_llama: Path, shows_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Loop]:
    """new_loop(kind, capture, plan=values of the plan, out=a run): full or lora; ready to run."""
    made: dict[str, Any] = {}

    def make(
        kind: str = "full", capture: CallAgain | CudaCapture | None = None, out: Path | None = None, **plan: Any
    ) -> Loop:
        if kind not in made:
            model = tiny_llama if kind in ("lora", "llama") else tiny_gpt_neo
            recipe = Recipe(
                model={"name": str(model)},
                data={"path": str(shows_csv), "text": "description", "max_rows": 120, **data_of(kind)},
                train={**TRAIN, **train_of(kind)},
                lora={"rank": 4, "dropout": 0.1},
                eval={"every": 1000},
                save={"every": 4},
            )
            inputs = prepare_inputs(recipe, lambda *doing: None, small=False)
            made[kind] = recipe, inputs, make_plan(recipe, inputs.data, detect_machine(), source=inputs.source)
        recipe, inputs, decided = made[kind]
        on_cpu = {"device": "cpu", "precision": "fp32"}
        decided = decided.model_copy(update={**on_cpu, "cuda_graphs": True, **plan})
        run_dir = RunDir(out) if out and out.exists() else RunDir.create(out or tmp_path_factory.mktemp("run") / "run")
        fingerprints = {"data": inputs.data.fingerprint, "model": "m"}
        job = Job(recipe, decided, inputs.source, inputs.tokenizer, inputs.data, run_dir, fingerprints, None)
        notes = Notes()
        recorder = Recorder(run_dir, decided.num_steps, notes)
        loop = _loop(job, build_model(job), StopRequest("again"), recorder)
        if kind == "dropout":
            for name, module in loop.model.named_modules():
                if isinstance(module, torch.nn.Dropout) and not name.endswith("attn_dropout"):  # it would be padded
                    module.p = 0.1
        if capture is not None and loop.graphs is not None:
            loop.graphs.capture = capture
        loop.notes = notes.notes  # type: ignore[attr-defined]
        return loop

    return make


def data_of(kind: str) -> dict[str, Any]:
    return {"text": None, "prompt": "title", "completion": "description"} if kind == "masked" else {}


def train_of(kind: str) -> dict[str, Any]:
    """single: every step is one document."""
    if kind == "single":
        return {"tokens_per_step": 16, "max_steps": 30, "max_length": 512}
    return {"method": "lora"} if kind == "lora" else {}


def end(loop: Loop) -> dict[str, torch.Tensor]:
    """Weights and optimizer after the run, and every step's loss."""
    loop.run()
    found = {name: parameter.detach().clone() for name, parameter in loop.model.named_parameters()}
    for number, state in loop.optimizer.state_dict()["state"].items():
        found |= {f"{number}.{name}": value.clone() for name, value in state.items()}
    found["losses"] = torch.tensor(loop.counts.loss_sum, dtype=torch.float64)
    return found


def said(loop: Loop) -> list[str]:
    """What the user was told of recordings."""
    notes: list[str] = loop.notes  # type: ignore[attr-defined]
    return [note for note in notes if "CUDA graphs" in note]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("kind", ["full", "dropout", "lora", "masked", "single"])
def test_replayed_steps_are_the_steps_launched_one_by_one(kind: str, new_loop: Callable[..., Loop]) -> None:
    counting = Counting()
    replayed = new_loop(kind, counting)
    expected = end(replayed)
    launched = new_loop(kind, Never())
    assert_same(end(launched), expected)
    assert replayed.graphs is not None
    assert 1 <= replayed.graphs.num_recorded == len(replayed.batches.sizes) <= 8
    assert counting.recorded == 2 * replayed.graphs.num_recorded, "a pass and an update of each size"
    assert counting.replayed >= 9, "passes and updates, of steps that have a size"
    assert launched.graphs is not None
    assert launched.graphs.num_recorded == 0
    (line,) = said(launched)
    assert "CUDA graphs are off" in line
    assert "stream is capturing; test_graphs.py:" in line


def test_filled_steps_learn_what_the_documents_say(new_loop: Callable[..., Loop]) -> None:
    one, other = end(new_loop("full", Counting())), end(new_loop("full", cuda_graphs=False))
    torch.testing.assert_close(one["losses"], other["losses"], rtol=1e-5, atol=0)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=5e-4)


def test_a_replay_that_is_merely_close_is_not_used(new_loop: Callable[..., Loop]) -> None:
    close = new_loop("full", Wrong())
    assert_same(end(close), end(new_loop("full", Never())))
    (line,) = said(close)
    assert "a replay's gradients are" in line


def test_an_update_that_cannot_be_recorded_is_launched(new_loop: Callable[..., Loop]) -> None:
    half = new_loop("dropout", HalfOnly())
    assert_same(end(half), end(new_loop("dropout", Never())))
    began, line = said(half)
    assert began.startswith("steps are replayed as CUDA graphs of ")
    assert "an update cannot be recorded here (no such luck; test_graphs.py:" in line


@pytest.mark.parametrize("replays", [0, 3])
def test_memory_that_runs_out_gives_the_recordings_up(replays: int, new_loop: Callable[..., Loop]) -> None:
    short = new_loop("dropout", Full(replays))
    assert_same(end(short), end(new_loop("dropout", Never())))
    assert [event.kind for event in short.recovery.events] == ["out_of_memory"]
    assert "without CUDA graphs" in short.recovery.events[0].note
    assert short.recovery.micro_batch_tokens == short.plan.micro_batch_tokens, "nothing was halved"


def test_steps_of_several_passes_are_launched_as_they_are(new_loop: Callable[..., Loop]) -> None:
    counting = Counting()
    loop = new_loop("full", counting, micro_batch_tokens=320)
    assert_same(end(loop), end(new_loop("full", cuda_graphs=False, micro_batch_tokens=320)))
    assert counting.recorded == 0


@pytest.mark.parametrize("kind", ["dropout", "lora"])
def test_a_run_that_goes_on_equals_one_that_was_never_stopped(
    kind: str, new_loop: Callable[..., Loop], tmp_path: Path
) -> None:
    whole = end(new_loop(kind, Counting(), out=tmp_path / "whole"))
    shutil.rmtree(tmp_path / "whole" / "checkpoints" / "step-12")
    checkpoint, _ = newest_valid_checkpoint(tmp_path / "whole" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.step == 8
    loop = new_loop(kind, Counting(), out=tmp_path / "whole")
    loop.saves.restore(loop, checkpoint)
    resumed = end(loop)
    assert_same(whole, resumed)
    assert loop.graphs is not None


def test_a_rehearsal_and_timed_steps_leave_no_trace(
    new_loop: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "MAX_SHARE", 1.0)
    expected = end(new_loop("dropout", Counting()))
    loop = new_loop("dropout", Counting())
    addresses = [state["exp_avg"].data_ptr() for state in loop.optimizer.state.values()]
    assert rehearse(loop)
    measured = time_steps(loop)
    assert min(item.num_tokens for item in measured if item.kind == "step") > 500, "whole steps, as they are replayed"
    assert loop.graphs is not None
    assert loop.graphs.num_recorded >= 1
    assert [state["exp_avg"].data_ptr() for state in loop.optimizer.state.values()] == addresses
    assert_same(end(loop), expected)


class NeverOnCuda(CudaCapture):
    """The stream of recordings, and none."""

    def record(self, call: Call, *, apart: bool = False) -> Call:
        raise RuntimeError("nothing is recorded in this test")


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda", torch.cuda.current_device())


def end_on_stream(loop: Loop) -> dict[str, torch.Tensor]:
    with loop.on_stream():
        return end(loop)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["full", "dropout", "lora", "llama", "masked"])
def test_graphs_give_the_same_bits_on_a_gpu(kind: str, new_loop: Callable[..., Loop], cuda: torch.device) -> None:
    on_gpu = {"device": "cuda", "precision": "bf16", "num_steps": 20}
    loop = new_loop(kind, **on_gpu)
    replayed = end_on_stream(loop)
    assert loop.graphs is not None
    assert (loop.graphs.off, loop.graphs.num_recorded >= 1) == ("", True)
    assert_same(end_on_stream(new_loop(kind, NeverOnCuda(cuda), **on_gpu)), replayed)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["dropout", "lora"])
def test_a_run_of_graphs_goes_on_bit_for_bit(
    kind: str, new_loop: Callable[..., Loop], cuda: torch.device, tmp_path: Path
) -> None:
    on_gpu = {"device": "cuda", "precision": "bf16"}
    whole = end_on_stream(new_loop(kind, out=tmp_path / "whole", **on_gpu))
    shutil.rmtree(tmp_path / "whole" / "checkpoints" / "step-12")
    checkpoint, _ = newest_valid_checkpoint(tmp_path / "whole" / "checkpoints")
    assert checkpoint is not None
    loop = new_loop(kind, out=tmp_path / "whole", **on_gpu)
    with loop.on_stream():
        loop.saves.restore(loop, checkpoint)
        assert_same(end(loop), whole)


@pytest.mark.gpu
def test_recordings_share_their_memory(cuda: torch.device) -> None:
    """Eight sizes of one computation take little more than the largest alone."""
    weight = torch.nn.Parameter(torch.randn(1024, 1024, device=cuda))

    def taken(sizes: list[int]) -> int:
        capture = CudaCapture(cuda)
        with capture.on_stream():
            inputs = [torch.randn(size, 1024, device=cuda) for size in sizes]

            def step(x: torch.Tensor) -> torch.Tensor:
                loss = torch.relu(x @ weight).square().mean()
                loss.backward()
                return loss.detach()

            for x in inputs:
                step(x)
                weight.grad = None
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()
            for x in inputs:
                capture.record_pass(partial(step, x), [weight])
                weight.grad = None
            torch.cuda.empty_cache()
            found = torch.cuda.memory_reserved() - before
        capture.forget()
        return found

    assert taken([8192 - 256 * number for number in range(8)]) <= 1.5 * taken([8192])

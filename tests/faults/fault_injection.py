"""Faults, put into a forked child before its case begins. Nothing here reaches the parent or another case."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

AUDITED = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.link"}
CALLED = {"write", "writelines", "posix_fallocate", "serialize_file"}
"""Events and calls that change what is on disk, with files opened for writing. A kill between two of them is like a
kill just before the second. What is written to memory or the terminal does not count."""
FILES = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom, io.FileIO)


def inject(fault: dict[str, Any]) -> None:
    """Install the fault `kind` with its options."""
    options = dict(fault)
    _KINDS[options.pop("kind")](**options)


class _Countdown:
    """Kills the process before its `at`-th change on disk; writes how many there were when it ends without."""

    def __init__(self, at: int | None, count_to: str | None) -> None:
        self.at, self.count_to, self.seen, self.armed = at, count_to, 0, False

    def arm(self) -> None:
        if not self.armed:
            self.armed = True
            sys.addaudithook(self._audit)
            threading.setprofile(self._watch)
            sys.setprofile(self._watch)

    def disarm(self) -> None:
        if not self.armed:
            return
        self.armed = False
        sys.setprofile(None)
        threading.setprofile(None)
        if self.count_to is not None:
            Path(self.count_to).write_text(str(self.seen))

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in AUDITED or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            self._count()

    def _watch(self, frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and getattr(function, "__name__", None) in CALLED:
            owner = function.__self__
            if not isinstance(owner, io.IOBase) or (isinstance(owner, FILES) and owner not in (sys.stdout, sys.stderr)):
                self._count()

    def _count(self) -> None:
        if self.armed:
            self.seen += 1
            if self.seen == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


def kill_in_save(save: int, at: int | None = None, count_to: str | None = None) -> None:
    """Kill before the `at`-th change on disk of the `save`-th checkpoint, its removal of older ones included."""
    from tunesmith.training.checkpoints import saves

    countdown, calls, original = _Countdown(at, count_to), [0], saves.save_checkpoint

    def save_checkpoint(*args: Any, **kwargs: Any) -> Path:
        calls[0] += 1
        if calls[0] != save:
            return original(*args, **kwargs)
        countdown.arm()
        try:
            return original(*args, **kwargs)
        finally:
            countdown.disarm()

    saves.save_checkpoint = save_checkpoint


def kill_plain_save(save: int, at: int) -> None:
    """For the control: kill before the `at`-th change on disk of the plain Trainer's `save`-th checkpoint."""
    from transformers import Trainer

    countdown, calls, original = _Countdown(at, None), [0], Trainer._save_checkpoint

    def save_checkpoint(self: Any, *args: Any, **kwargs: Any) -> None:
        calls[0] += 1
        if calls[0] == save:
            countdown.arm()
        original(self, *args, **kwargs)

    Trainer._save_checkpoint = save_checkpoint


def kill_at_change(at: int | None = None, count_to: str | None = None, until: str | None = None) -> None:
    """Kill before the `at`-th change on disk since the case began. `until` (train) ends the count at step 1."""
    countdown = _Countdown(at, count_to)
    if until == "train":
        _before_step(1, lambda self: countdown.disarm())
    else:
        _on_exit(countdown.disarm)
    countdown.arm()


def kill_in_end(at: int | None = None, count_to: str | None = None) -> None:
    """Kill before the `at`-th change on disk after the last step was saved: final model, result, report."""
    from tunesmith.training.checkpoints import saving

    countdown, original = _Countdown(at, count_to), saving.save_tuned

    def save(*args: Any) -> Any:
        countdown.arm()
        return original(*args)

    saving.save_tuned = save  # type: ignore[assignment]
    _on_exit(countdown.disarm)


def kill_in_file(save: int, file: int, share: float) -> None:
    """Kill when `share` of the `file`-th tensor file of the `save`-th checkpoint is on disk."""
    from tunesmith.training.checkpoints import saves as module
    from tunesmith.training.checkpoints import state

    saves, files, original, save_file = [0], [0], module.save_checkpoint, state.save_file

    def save_checkpoint(*args: Any, **kwargs: Any) -> Path:
        saves[0] += 1
        return original(*args, **kwargs)

    def write(tensors: Any, path: Path, metadata: Any = None) -> None:
        save_file(tensors, path, metadata=metadata)
        if saves[0] == save:
            files[0] += 1
            if files[0] == file:
                os.truncate(path, int(Path(path).stat().st_size * share))
                os.kill(os.getpid(), signal.SIGKILL)

    module.save_checkpoint, state.save_file = save_checkpoint, write  # type: ignore[assignment]


def send(number: int, at: str, nth: int = 1, again: bool = False) -> None:
    """Send this process a signal in the `nth` call of a place; `again`: a second one, a second later by its clock."""

    def ring() -> None:
        os.kill(os.getpid(), number)
        if again:
            from tunesmith.run import signals

            now = signals.time.monotonic() + 1
            signals.time = _Clock(now)  # type: ignore[assignment]
            os.kill(os.getpid(), number)

    _at_place(at, nth, ring)


def lose_terminal(nth: int) -> None:
    """Standard output and error are a terminal; it goes away, with SIGHUP, before the `nth` step."""
    import pty

    master, slave = pty.openpty()
    reader = os.fork()
    if reader == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.close(slave)
        while os.read(master, 65536):
            pass
        os._exit(0)
    os.close(master)
    os.dup2(slave, 1)
    os.dup2(slave, 2)
    os.close(slave)

    def lose(loop: Any) -> None:
        os.kill(reader, signal.SIGKILL)
        os.waitpid(reader, 0)
        os.kill(os.getpid(), signal.SIGHUP)

    _before_step(nth, lose)


def break_pipe(nth: int) -> None:
    """Standard output and error are a pipe whose reader goes away before the `nth` step."""
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(writer)
    _before_step(nth, lambda self: os.close(reader))


class _Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now


def bad_number(what: str, step: int, value: float = float("nan")) -> None:
    """A weight, gradient or loss of `step`, or the `step`-th held-out loss, becomes `value`."""
    import torch

    from tunesmith.training.loop import Loop

    def spoil(tensor: torch.Tensor) -> None:
        with torch.no_grad():
            tensor.view(-1)[0] = value

    if what == "weight":
        _before_step(step, lambda self: spoil(next(p for p in self.model.parameters() if p.requires_grad)))
    elif what == "eval":
        _spoil_evaluation(step, value)
    else:
        training, inner = _training_flag(), Loop._forward_backward

        def forward_backward(self: Any, documents: Any) -> Any:
            loss = inner(self, documents)
            if training[0] and self.step + 1 == step:
                if what == "loss":
                    return loss * value
                spoil(next(p.grad for p in self.model.parameters() if p.grad is not None))
            return loss

        Loop._forward_backward = forward_backward  # type: ignore[method-assign]


def _spoil_evaluation(nth: int, value: float) -> None:
    from dataclasses import replace

    from tunesmith.training import held_out

    calls, inner = [0], held_out.evaluate

    def evaluate(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        scores = inner(*args, **kwargs)
        return replace(scores, loss=value) if calls[0] == nth else scores

    held_out.evaluate = evaluate


def out_of_memory(
    where: str, step: int, limit: int | None = None, host: bool = False, kill_at: int | None = None
) -> None:
    """Allocation fails in forward, backward (after gradients were added), optimizer or eval: once at `step`, or with
    `limit` at and after `step` for every batch of more tokens. `host`: the error of torch on a CPU. `kill_at`: a kill
    before that step."""
    import torch

    from tunesmith.fast.batches import layout
    from tunesmith.training.loop import Loop
    from tunesmith.training.steps.batches import Batches

    fired, tokens = [False], [0]
    training = _training_flag()
    if kill_at is not None:
        _before_step(kill_at, lambda self: os.kill(os.getpid(), signal.SIGKILL))

    def fail(now: int) -> None:
        late = now >= step if limit is not None else now == step
        if training[0] and late and (tokens[0] > limit if limit is not None else not fired[0]):
            fired[0] = True
            raise _allocation_error(host)

    if where == "optimizer":
        _fail_in_optimizer(host)
    elif where == "eval":
        _fail_in_evaluation(step, limit, host)
    else:
        inner, step_of, backward, current = Batches.flat, Loop._forward_backward, torch.Tensor.backward, [0]

        def forward_backward(self: Any, documents: Any) -> Any:
            current[0] = self.step + 1
            return step_of(self, documents)

        def flat(self: Any, part: Any) -> layout.FlatBatch:
            batch = inner(self, part)
            tokens[0] = len(batch.input_ids)
            if where == "forward":
                fail(current[0])
            return batch

        def fail_after_backward(loss: Any, *args: Any, **kwargs: Any) -> None:
            backward(loss, *args, **kwargs)
            if where == "backward":
                fail(current[0])

        Batches.flat = flat  # type: ignore[method-assign]
        Loop._forward_backward = forward_backward  # type: ignore[method-assign]
        torch.Tensor.backward = fail_after_backward  # type: ignore[assignment, method-assign]


def _allocation_error(host: bool) -> BaseException:
    import torch

    if host:
        return RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory: you tried"
        )
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _fail_in_optimizer(host: bool) -> None:
    """The second moment of the third parameter does not fit, the first time: state is half made then."""
    import torch

    from tunesmith.step import ReadyState

    made, zeros_like, begin = [0], torch.zeros_like, ReadyState.begin

    def failing(*args: Any, **kwargs: Any) -> Any:
        made[0] += 1
        if made[0] == 6:
            raise _allocation_error(host)
        return zeros_like(*args, **kwargs)

    def work(self: Any) -> None:
        torch.zeros_like = failing
        try:
            begin(self)
        finally:
            torch.zeros_like = zeros_like
        assert made[0] > 6, "the error was never raised"

    ReadyState.begin = work  # type: ignore[method-assign]


def _fail_in_evaluation(nth: int, limit: int | None, host: bool) -> None:
    from tunesmith import evaluate as module
    from tunesmith.training import held_out

    evaluations, fired, flatten, inner = [0], [False], module.flatten, held_out.evaluate

    def evaluate(*args: Any, **kwargs: Any) -> Any:
        evaluations[0] += 1
        return inner(*args, **kwargs)

    def failing(*args: Any) -> Any:
        batch = flatten(*args)
        too_large = len(batch.input_ids) > limit if limit is not None else not fired[0]
        if evaluations[0] == nth and too_large:
            fired[0] = True
            raise _allocation_error(host)
        return batch

    held_out.evaluate, module.flatten = evaluate, failing  # type: ignore[assignment]


def _training_flag() -> list[bool]:
    """[False] until step 1 of the run is about to begin: the rehearsal before it does not count."""
    from tunesmith.training.loop import Loop

    flag, inner = [False], Loop.run

    def run(self: Any) -> None:
        flag[0] = True
        inner(self)

    Loop.run = run  # type: ignore[method-assign]
    return flag


def _before_step(step: int, work: Callable[[Any], None]) -> None:
    """Call `work(loop)` before the forward pass of `step`, once, never in the rehearsal."""
    from tunesmith.training.loop import Loop

    training, inner, done = _training_flag(), Loop.forward_backward, [False]

    def forward_backward(self: Any, documents: Any) -> Any:
        if training[0] and not done[0] and self.step + 1 == step:
            done[0] = True
            work(self)
        return inner(self, documents)

    Loop.forward_backward = forward_backward  # type: ignore[method-assign]


def _at_place(at: str, nth: int, ring: Callable[[], None]) -> None:
    """Call `ring` once, in the `nth` visit of a place."""
    from tunesmith import training
    from tunesmith.models import tokenizer
    from tunesmith.training import held_out
    from tunesmith.training.checkpoints import saving
    from tunesmith.training.checkpoints.saves import Saves

    visits = [0]

    def visit() -> None:
        visits[0] += 1
        if visits[0] == nth:
            ring()

    def before(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            visit()
            return inner(*args, **kwargs)

        setattr(owner, name, wrapped)

    if at == "step":
        _before_step(nth, lambda self: ring())
    elif at == "load":
        before(training, "build_model")
    elif at == "tokenise":
        before(tokenizer.TextTokenizer, "encode_batch")
    elif at == "eval":
        inner = held_out.evaluate

        def evaluate(*args: Any, progress: Any, **kwargs: Any) -> Any:
            first = [True]

            def in_the_middle(done: int, total: int) -> None:
                if first[0]:
                    first[0] = False
                    visit()
                progress(done, total)

            return inner(*args, progress=in_the_middle, **kwargs)

        held_out.evaluate = evaluate  # type: ignore[assignment]
    elif at == "generate":
        from tunesmith.generate import text as generate

        before(generate, "choose")
    elif at == "save":
        before(Saves, "write_state")
    elif at == "end":
        before(saving, "save_tuned")
    else:
        raise ValueError(at)


def _on_exit(work: Callable[[], None]) -> None:
    """Call `work` when the command ends by itself."""
    from tunesmith import cli

    inner = cli.app

    def app() -> None:
        try:
            inner()
        finally:
            work()

    cli.app = app  # type: ignore[assignment]


def limit_files(num_bytes: int, save: int | None) -> None:
    """From the `save`-th checkpoint on (None: from the final model on) no file can grow beyond `num_bytes`: a quota."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _at_place(
        "end" if save is None else "save",
        save or 1,
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes)),
    )


def set_clock_back(seconds: float) -> None:
    """The wall clock shows a time before every file of the run."""
    import time

    now = time.time
    time.time = lambda: now() - seconds


def other_library() -> None:
    """This process has another release of transformers."""
    import transformers

    transformers.__version__ = "99.0.0"


def fill_disk(save: int, leave: int, filler: str) -> None:
    """Fill the disk when the `save`-th checkpoint begins, but for `leave` bytes."""

    def fill() -> None:
        path = Path(filler)
        state = os.statvfs(path.parent)
        path.write_bytes(bytes(max(state.f_bavail * state.f_frsize - leave, 0)))

    _at_place("save", save, fill)


_KINDS: dict[str, Callable[..., None]] = {
    "kill_in_save": kill_in_save,
    "kill_at_change": kill_at_change,
    "kill_plain_save": kill_plain_save,
    "kill_in_end": kill_in_end,
    "kill_in_file": kill_in_file,
    "send": send,
    "lose_terminal": lose_terminal,
    "break_pipe": break_pipe,
    "bad_number": bad_number,
    "out_of_memory": out_of_memory,
    "limit_files": limit_files,
    "fill_disk": fill_disk,
    "set_clock_back": set_clock_back,
    "other_library": other_library,
}

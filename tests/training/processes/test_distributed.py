"""One process is a team of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tunesmith.run.artefacts import Plan
from tunesmith.training.processes.distributed import Team


def test_one_process_decides_alone(new_plan: Callable[..., Plan]) -> None:
    team = Team(new_plan())
    model = torch.nn.Linear(2, 2)
    assert (team.rank, team.size, team.is_first) == (0, 1, True)
    assert team.wrap(model) is model
    assert team.agree(True, False) == [True, False]
    assert team.means(torch.tensor([3.0, 1.0])).tolist() == [3.0, 1.0]

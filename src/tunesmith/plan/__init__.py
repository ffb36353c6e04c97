"""What was decided: a Recipe, its data and a machine become one frozen Plan, each value with its reason.

decide.py     recipe + data + machine -> Plan; what training uses, and nothing downstream decides again
schedule.py   steps: how large, how many, at which rate; cadence.py: what happens between them
quote.py      what it will take and cost on this machine, one GPU or all; targets.py: which these are
counts.py     the same run on more GPUs, and what each number gains
search.py     what fits a device and is fastest; graphs.py: whether its steps are recorded as CUDA graphs;
              offload.py: whether frozen layers stay in RAM
measured.py   what the run takes: its first steps, and afterwards, beside what was planned
"""

from __future__ import annotations

from tunesmith.forecast.time import Measured, measure_steps
from tunesmith.machine.detect import Machine, detect_machine
from tunesmith.plan.counts import Counts
from tunesmith.plan.decide import continue_plan, make_plan
from tunesmith.plan.measured import record_measured
from tunesmith.plan.quote import PlanReport, plan

__all__ = [
    "Counts",
    "Machine",
    "Measured",
    "PlanReport",
    "continue_plan",
    "detect_machine",
    "make_plan",
    "measure_steps",
    "plan",
    "record_measured",
]

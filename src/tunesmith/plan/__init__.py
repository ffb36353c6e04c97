"""What was decided: a Recipe, its data and a machine become one frozen Plan, each value with its reason.

decide.py     recipe + data + machine -> Plan; what training uses, and nothing downstream decides again
quote.py      what it will take and cost on this machine, one GPU or all; view.py prints it
search.py     what fits a device and is fastest; graphs.py: whether its steps are recorded as CUDA graphs
forecast.py   memory, time and disk of one way to train: memory.py, timing.py, disk.py
trace.py step.py simulate.py splice.py    one exact optimizer step from a config alone, allocation by allocation
allocator.py roofline.py                  what a GPU reserves for it; how long it takes
machine.py gpus.py shapes.py workload.py  this machine, GPUs, models and data in numbers
measured.py   afterwards: what the run took, beside what was planned
"""

from __future__ import annotations

from tunesmith.forecast.time import Measured, measure_steps
from tunesmith.machine.detect import Machine, detect_machine
from tunesmith.plan.decide import continue_plan, make_plan
from tunesmith.plan.measured import record_measured
from tunesmith.plan.quote import PlanReport, plan

__all__ = [
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

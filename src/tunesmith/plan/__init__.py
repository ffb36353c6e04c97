"""What was decided: a Recipe, its data and a machine become one frozen Plan, each value with its reason.

    machine.py    what this machine has: devices, memory, cores
    decide.py     recipe + data + machine -> Plan
    measured.py   afterwards: what the run took, beside what was planned

`make_plan` is what training uses. Nothing downstream decides again.
"""

from __future__ import annotations

from tunesmith.plan.decide import Plan, make_plan
from tunesmith.plan.machine import Machine, detect_machine
from tunesmith.plan.measured import record_measured

__all__ = ["Machine", "Plan", "detect_machine", "make_plan", "record_measured"]

"""What was decided: a Recipe, its data and a machine become one frozen Plan, each value with its reason.

    machine.py    what this machine has: devices, memory, cores
    decide.py     recipe + data + machine -> Plan

`make_plan` is what training uses. Nothing downstream decides again.
"""

from __future__ import annotations

from tunesmith.plan.decide import Plan, make_plan
from tunesmith.plan.machine import Machine, detect_machine

__all__ = ["Machine", "Plan", "detect_machine", "make_plan"]

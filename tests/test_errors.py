"""Every error is a kind of TunesmithError, says its exit code, and stands in the tree that the module draws."""

from __future__ import annotations

import re

import pytest

from tunesmith import errors
from tunesmith.errors import Stopped, TunesmithError

KINDS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, TunesmithError)]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_user_can_fix_exits_with_2(kind: type[TunesmithError]) -> None:
    assert kind("somewhere: a thing").exit_code == 2
    assert str(kind("somewhere: a thing")) == "somewhere: a thing"


def test_a_stop_names_the_command_that_goes_on() -> None:
    stopped = Stopped("SIGTERM", "tunesmith train a.yaml")
    assert stopped.exit_code == 75
    assert str(stopped) == "stopped: SIGTERM. Resume with: tunesmith train a.yaml"
    assert not isinstance(stopped, TunesmithError)


def test_the_tree_names_all() -> None:
    drawn = set(re.findall(r"^ +(?:[├└]── )?(\w+)  ", errors.__doc__ or "", re.MULTILINE))
    assert drawn == {kind.__name__ for kind in KINDS} | {"Stopped"}

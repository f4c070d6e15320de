"""The same tests in larger counts: new seeds each time, printed, so that a failure can be had again with LAWS_SEED."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

quick = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    # Without shrinking, which takes minutes here: the cases are small as they are.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""For the default mode: the same examples every time."""


def new_seed() -> int:
    """LAWS_SEED, or another one each second."""
    return int(os.environ.get("LAWS_SEED", int(time.time())))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def many(check: Callable[[Any], None], cases: SearchStrategy[Any], examples: int = 1500) -> None:
    """Run ``check`` on many generated cases."""
    number = new_seed()
    say(f"{check.__name__}: {examples} examples, LAWS_SEED={number}")

    @seed(number)
    @settings(quick, max_examples=examples, derandomize=False, print_blob=True)
    @given(cases)
    def generated(case: Any) -> None:
        check(case)

    generated()

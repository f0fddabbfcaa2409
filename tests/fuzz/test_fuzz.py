"""Hostile arguments for everything public: a number or one sentence comes of them, nothing else.

``make fuzz`` tries 20,000; the test run tries a thousand, the same ones wherever CI is set.
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import calls
from tests.fuzz.outcome import fault

CALLS = list(calls.calls())
CASES = int(os.environ.get("FUZZ_CASES", "1000"))
EACH = -(-CASES // len(CALLS))
every_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)


@every_call
def test_nothing_public_is_left_out(call):
    """A new function or parameter needs a good value in ``calls``."""
    assert fault(call, call.good(), []) is None


@every_call
@settings(max_examples=EACH, suppress_health_check=list(HealthCheck), deadline=None, database=None)
@given(data=st.data())
def test_hostile_arguments_give_a_number_or_one_sentence(call, data):
    arguments = call.good()
    if not arguments:
        return
    names = sorted(arguments.keys() - calls.WRITTEN_TO)
    spoilt = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    for name in spoilt:
        arguments[name] = data.draw(calls.hostile, label=name)
    assert fault(call, arguments, spoilt) is None

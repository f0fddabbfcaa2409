"""The gate: what it takes, converted without loss, and one sentence for everything else."""

import fractions

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import adaptive
from adaptive import checks


class Hostile:
    """An object that no message should trip over."""

    def __repr__(self):
        raise RuntimeError("no text")


JUNK = {
    "text": "0.05",
    "bytes": b"0.05",
    "none": None,
    "flag": True,
    "numpy flag": np.True_,
    "complex": 1 + 2j,
    "complex64": np.complex64(1),
    "complex 0-d": np.array(1j),
    "masked": np.ma.masked,
    "list": [0.1],
    "array": np.array([0.1, 0.2]),
    "dict": {"a": 1},
    "function": len,
    "hostile": Hostile(),
    "nan": float("nan"),
    "inf": np.float32("inf"),
    "huge": 10**400,
    "minus huge": -(10**5000),
    "sparse": scipy.sparse.eye_array(3),
    "date": np.datetime64("2020-01-01"),
}

NUMBERS = [checks.number, checks.positive, checks.nonnegative, checks.fraction, checks.quantile]


@pytest.mark.parametrize("value", JUNK.values(), ids=JUNK)
@pytest.mark.parametrize("check", NUMBERS)
def test_what_is_no_number_gets_one_sentence(check, value):
    _one_sentence(lambda: check("mu", value), "mu")


@pytest.mark.parametrize("value", [*JUNK.values(), 0.5, np.float64(2)], ids=[*JUNK, "0.5", "2.0"])
@pytest.mark.parametrize("check", [checks.count, checks.seed])
def test_what_is_no_count_gets_one_sentence(check, value):
    if check is checks.seed and value is JUNK["huge"]:
        assert check("seed", value) == value  # seeds may be as long as they like
        return
    _one_sentence(lambda: check("steps", value), "steps")


@pytest.mark.parametrize(
    "value",
    [v for k, v in JUNK.items() if "flag" not in k],
    ids=[k for k in JUNK if "flag" not in k],
)
def test_what_is_no_flag_gets_one_sentence(value):
    _one_sentence(lambda: checks.flag("normalize", value), "normalize")
    _one_sentence(lambda: checks.choice("algorithm", value, ("lms", "nlms")), "algorithm")


def _one_sentence(call, name):
    with pytest.raises((TypeError, ValueError)) as caught:  # a warning is an error here
        call()
    text = str(caught.value)
    assert type(caught.value) in (TypeError, ValueError)
    assert text.startswith(f"{name} must be")
    assert "; got " in text
    assert "\n" not in text
    assert len(text) < 250


@pytest.mark.parametrize(
    "value",
    [0.5, np.float32(0.5), np.array(0.5), fractions.Fraction(1, 2), np.array(0.5, ">f8")],
    ids=repr,
)
def test_every_kind_of_real_number_is_one(value):
    assert checks.positive("mu", value) == 0.5
    assert type(checks.positive("mu", value)) is float


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3)], ids=repr)
def test_every_kind_of_integer_counts(value):
    assert checks.count("steps", value) == 3
    assert checks.number("mu", value) == 3.0


def test_flags_and_instances():
    assert checks.flag("normalize", np.True_) is True
    assert checks.flag("normalize", False) is False
    problem = adaptive.WienerProblem(R=np.eye(2), P=np.ones(2), d_power=3.0)
    assert checks.instance("problem", problem, adaptive.WienerProblem) is problem
    with pytest.raises(
        TypeError, match=r"problem must be a WienerProblem; got an array of shape \(2, 2\)"
    ):
        checks.instance("problem", np.eye(2), adaptive.WienerProblem)


INTEGERS = ["i1", "u1", "<i2", ">i2", "<u4", ">i4", "<i8", ">u8"]


@given(data=st.data(), kind=st.sampled_from(INTEGERS))
def test_integers_become_double_precision_exactly(data, kind):
    limits = np.iinfo(kind)
    exact = st.integers(max(limits.min, -(2**53)), min(limits.max, 2**53))
    a = data.draw(arrays.arrays(kind, st.integers(1, 20), elements=exact))
    b = checks.array("u", a, ndim=(1,))
    assert b.dtype == np.float64
    assert b.dtype.isnative
    assert [int(x) for x in b] == [int(x) for x in a]


def test_an_integer_that_double_precision_lacks_is_refused():
    for a in (np.array([1, 2**53 + 1]), np.array([2**64 - 1], np.uint64), np.array([-(2**63) + 1])):
        with pytest.raises(ValueError, match="u must hold integers that float64 holds exactly"):
            checks.array("u", a, ndim=(1,))
    # larger ones that it does hold pass
    assert checks.array("u", np.array([-(2**63), 2**60]), ndim=(1,)).tolist() == [
        -(2.0**63),
        2.0**60,
    ]


@given(data=st.data(), kind=st.sampled_from(["f4", "f8", "c8", "c16"]), swapped=st.booleans())
def test_byte_order_is_no_kind_of_number(data, kind, swapped):
    native = np.dtype(kind)
    dtype = native.newbyteorder("S") if swapped else native
    a = data.draw(arrays.arrays(native, 5, elements={"allow_nan": False, "allow_infinity": False}))
    a = np.where(np.abs(a) < 1e30, a, 0).astype(dtype)
    b = checks.array("u", a, ndim=(1,))
    assert b.dtype == native
    assert b.dtype.isnative
    np.testing.assert_array_equal(a, b)
    if not swapped:
        assert b is a  # what needs no conversion is not copied


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([[1.0], [1.0, 2.0]], ValueError, "u must have rows of equal length; got"),
        ("abc", TypeError, "u must be float32, .*; got <U3"),
        ([10**400], TypeError, "u must be float32, .*; got object"),
        ([None, 1.0], TypeError, "u must be float32, .*; got object"),
        (np.ones(3, bool), TypeError, "u must be float32, .*; got bool"),
        (np.ones(3, np.float16), TypeError, "u must be float32, .*; got float16"),
        (scipy.sparse.eye_array(3), TypeError, "u must be float32, .*; got object"),
        (1.0, ValueError, r"u must be 1-D or 2-D; got shape \(\)"),
        (np.ones((1, 1, 1)), ValueError, r"u must be 1-D or 2-D; got shape \(1, 1, 1\)"),
        ([], ValueError, r"u must not be empty; got shape \(0,\)"),
        ([[1.0, np.nan]], ValueError, r"u must be finite; got nan at index \(0, 1\)"),
        (
            np.ma.masked_array([1.0, 2.0, 3.0], mask=[0, 1, 0]),
            TypeError,
            "u must have no masked entries; got 1 masked of 3",
        ),
    ],
)
def test_arrays_that_are_refused(value, error, message):
    with pytest.raises(error, match=message):
        checks.array("u", value, ndim=(1, 2))


def test_a_masked_array_without_masked_entries_is_an_array():
    a = checks.array("u", np.ma.masked_array([1.0, 2.0], mask=[0, 0]), ndim=(1,))
    assert a.tolist() == [1.0, 2.0]


def test_an_object_that_will_not_become_an_array():
    class Refuses:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("on another device")

    with pytest.raises(TypeError, match="u must be an array of numbers; got"):
        checks.array("u", Refuses(), ndim=(1,))


def test_values_are_shown_briefly():
    assert checks.shown(Hostile()) == "an object of type Hostile"
    assert checks.shown(10**5000) == "an integer of 16610 bits"
    assert checks.shown(np.float64(0.5)) == "0.5"
    assert checks.shown(np.ones((2, 3))) == "an array of shape (2, 3)"
    assert len(checks.shown("x" * 1000)) < 100
    assert checks.shown("a\nb\tc") == r"'a\nb\tc'"

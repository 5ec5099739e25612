"""Orders: exact, factored, and in words."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weyl.errors import UsageError
from weyl.groups import Order, convolutional_order, feedforward_order

TABLES = st.dictionaries(st.integers(2, 60), st.integers(1, 4), max_size=4)


@pytest.mark.parametrize(
    ("order", "log10"),
    [
        (feedforward_order([10]), 6.5598),
        (feedforward_order([10, 10]), 13.1195),
        (feedforward_order([128, 128]), 431.17),
        (feedforward_order([512, 512, 512]), 3499.62),
        (convolutional_order([64, 128, 256, 512]), 1978.16),
    ],
)
def test_published_counts(order, log10):
    decimals = 4 if log10 < 20 else 2
    assert round(order.log10, decimals) == log10


def test_closed_formulas_are_products_of_factorials():
    assert int(feedforward_order([512, 512, 512])) == math.factorial(512) ** 3
    expected = math.prod(map(math.factorial, (64, 128, 256, 512, 100)))
    assert int(convolutional_order([64, 128, 256, 512], dense=[100])) == expected


@given(TABLES)
def test_integer_logarithm_and_text_agree(table):
    order = Order.of(table)
    exact = math.prod(math.factorial(n) ** m for n, m in table.items())
    assert int(order) == exact
    assert order.digits() == str(exact)
    assert math.isclose(order.log10, math.log10(exact), rel_tol=1e-13, abs_tol=1e-12)
    assert math.isclose(float(str(order)), exact, rel_tol=6e-3) if exact < 1e300 else "e" in str(order)


@given(TABLES, TABLES)
def test_product_of_orders(a, b):
    assert int(Order.of(a) * Order.of(b)) == int(Order.of(a)) * int(Order.of(b))


def test_more_digits_than_python_converts_at_once():
    order = feedforward_order([3000, 3000])
    digits = order.digits()
    assert len(digits) == math.floor(order.log10) + 1 > 4300
    assert int(digits[:15]) == int(order) // 10 ** (len(digits) - 15)
    with pytest.raises(ValueError, match="limit"):
        str(int(order))


def test_rounding_up_to_the_next_power():
    assert str(Order.of({}, {10: 20})) == "1.00e20"
    assert str(Order.of({}, {9999: 5})) == "1.00e20"


def test_powers_are_counted():
    order = Order.of({3: 1}, {2: 5})
    assert (int(order), order.formula) == (6 * 32, "3! · 2^5")


def test_one_is_trivial():
    assert Order().trivial
    assert Order.of({1: 7, 0: 2}) == Order()
    assert (int(Order()), str(Order()), Order().formula) == (1, "1", "1")


def test_json_ready():
    data = json.loads(json.dumps(feedforward_order([4000]).to_dict()))
    assert data["factorials"] == [[4000, 1]]


@pytest.mark.parametrize("sizes", [[0], [-3], [2.5], ["7"], [True]])
def test_bad_sizes_are_refused(sizes):
    with pytest.raises(UsageError, match="positive integers"):
        feedforward_order(sizes)

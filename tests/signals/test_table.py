"""Lists of dictionaries that are shown as tables."""

import copy
import json
import pickle

import pytest

from hs_autoptycho.signals._table import Table

ROWS = [
    {"index": 0, "parent": None, "children": [1, 2], "gain": 0.123456, "stopped": ""},
    {"index": 1, "parent": 0, "children": [], "gain": float("nan"), "leaf": 0},
]


def test_shown_as_a_table():
    assert repr(Table(ROWS)).split("\n") == [
        "index  parent  children  gain   stopped  leaf",
        "0              1, 2      0.123",
        "1      0                 nan             0",
        "(2 dictionaries)",
    ]
    mean = {"mean": 0.01234, "standard_deviation": 1.0, "standard_error": 0.00056789}
    assert "0.0123 ± 0.000568" in repr(Table([{"e_xx": mean}]))
    assert str(Table([{"a": 1}] * 100)).endswith("(100 dictionaries, the first 60 of them shown)")
    assert repr(Table()) == "[]" and repr(Table([1, {}])) == "[1, {}]"


def test_a_text_from_a_file_stays_in_its_line():
    shown = repr(Table([{"reason": "a\x1b[2J\nb" + 100 * "c"}])).split("\n")
    assert len(shown) == 3 and shown[1].startswith("a [2J b") and len(shown[1]) == 60


@pytest.mark.parametrize(
    "make", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))]
)
def test_a_list_in_all_else(make):
    table = Table(copy.deepcopy(ROWS[:1]))
    same = make(table)
    assert type(same) is Table and same == table == ROWS[:1]
    assert json.loads(json.dumps(table)) == ROWS[:1]
    assert type(table[:1]) is list and type(table[0]) is dict and isinstance(table, list)

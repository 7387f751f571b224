"""Nested rules, on paper."""

from __future__ import annotations

import numpy as np
import pytest

from circuit_econ.measures.quadrature import level_above, level_below, rule


@pytest.mark.parametrize("level", [0, 1, 2, 3, 6])
def test_a_rule_is_exact_for_polynomials_through_its_nodes(level: int) -> None:
    found = rule(level)
    assert found.nodes[0] == 0 and found.nodes[-1] == 1 and (found.weights > 0).all()
    assert len(found.nodes) == len(found.weights) == 2**level + 1
    for power in range(2**level + 1):
        values, ends = found.nodes**power, found.nodes ** (power + 1) / (power + 1)
        assert found.weights @ values == pytest.approx(1 / (power + 1), abs=1e-13)
        assert np.allclose(found.between @ values, np.diff(ends), atol=1e-13)


def test_simpson_and_its_like() -> None:
    assert np.allclose(rule(0).weights, [1 / 2, 1 / 2])
    assert np.allclose(rule(1).weights, [1 / 6, 4 / 6, 1 / 6])
    assert np.allclose(rule(2).weights, np.array([1, 8, 12, 8, 1]) / 30)


def test_nodes_of_a_rule_are_nodes_of_the_next_to_the_last_bit() -> None:
    for level in range(6):
        assert (rule(level + 1).nodes[::2] == rule(level).nodes).all()
        new = rule(level + 1).nodes[1]
        assert rule(level).weight(new) == 0 < rule(level + 1).weight(new)
        assert rule(level).weight(1.0) == rule(level).weights[-1]


def test_levels_of_numbers_of_nodes() -> None:
    assert [level_above(n) for n in (2, 3, 4, 5, 6, 9, 10, 64, 65)] == [0, 1, 2, 2, 3, 3, 4, 6, 6]
    assert [level_below(n) for n in (2, 3, 4, 5, 8, 9, 64, 65, 66)] == [0, 1, 1, 2, 2, 3, 5, 6, 6]

"""Boxes hold every state that they stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from construct.sparse import sparse_matrix
from construct.suites import build_suite
from construct.theorems import two_layer
from tests.verify.conftest import sparse
from verify.boxes import box_of_rows, roles_of

ROLES = ("bos", "x", "eq", "y")


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(3)), elements=st.floats(-9, 9, width=32)))
def test_the_box_of_rows_holds_each_row(rows: np.ndarray) -> None:
    box = box_of_rows(sparse(rows).astype(np.float64))
    assert (np.abs(rows - box.centre) <= box.radius).all()
    reached = np.abs(rows.astype(np.float64) - box.centre).max(axis=0)
    assert (box.radius <= reached * (1 + 2.0**-39) + 2.0**-45).all()


def test_equal_rows_are_a_box_of_radius_0_and_no_rows_are_one_too() -> None:
    rows = sparse(np.array([[1.0, 0.0, -3.0]] * 5, np.float32))
    box = box_of_rows(rows)
    assert box.centre.tolist() == [1, 0, -3]
    assert box.radius.tolist() == [0, 0, 0]
    none = sparse_matrix(np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64), (0, 4))
    assert box_of_rows(none).radius.tolist() == [0] * 4


@pytest.mark.parametrize(("inputs", "examples"), [(3, 5), (1, 2), (2, 1)])
def test_roles_are_the_layouts_positions_and_their_states_hold_every_token(inputs: int, examples: int) -> None:
    built = two_layer(build_suite("lookup", tasks=2, alphabet_size=7, inputs=inputs), examples=examples)
    layout, roles = built.layout, roles_of(built.weights, built.layout)
    assert roles.x.tolist() == [
        [layout.input_position(example, place) for place in range(inputs)] for example in range(examples + 1)
    ]
    assert roles.eq.tolist() == [layout.eq_position(example) for example in range(examples + 1)]
    assert roles.y.tolist() == [layout.answer_position(example) for example in range(examples)]
    together = sorted(position for role in ROLES for position in roles.positions(role).tolist())
    assert together == list(range(layout.positions))
    token, position = built.weights.token_embedding.toarray(), built.weights.position_embedding.toarray()
    possible = {"bos": [layout.bos], "eq": [layout.eq], "x": range(7), "y": range(7)}
    for role in ROLES:
        box = roles.state(role)
        assert roles.tokens(role).shape[0] == len(possible[role])
        for at in roles.positions(role):
            for ident in possible[role]:
                assert (np.abs(token[ident] + position[at] - box.centre) <= box.radius).all()

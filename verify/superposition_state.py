"""The stream between the components and the last two layers: boxes by position and role, and affine forms of units."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from construct.transformer import MlpWeights
from verify.boxes import Box, Roles
from verify.exact import INFLATION, Float, common_slack
from verify.superposition_balls import hull, image, plus, rectified
from verify.superposition_blocks import Block, Judged
from verify.superposition_outside import contexts, embedded

ROLES = ("bos", "x", "eq", "y")


@dataclass(frozen=True)
class Affine:
    """The constant parts of the units' arguments, by token: centre [tokens, units], and what it may be off, [units]."""

    centre: Float
    slack: Float


def stream_after_components(judged: Judged, blocks: Sequence[Block]) -> Box:
    """Every position's stream after the components' layers, over all tokens and contexts: shape [T, d_model]."""
    box = hull(embedded(judged.weights, judged.layout), axis=1)
    for block in blocks:
        own = hull(contexts(block.weights, judged.layout)[-1], axis=1)
        box.centre[:, block.coordinates], box.radius[:, block.coordinates] = own.centre, own.radius
    return box


def by_role(box: Box, roles: Roles) -> dict[str, Box]:
    """The boxes of all positions of a role."""
    at = {role: roles.positions(role) for role in ROLES}
    return {role: hull(Box(box.centre[places], box.radius[places])) for role, places in at.items()}


def constants(mlp: MlpWeights, state: Box, rows: NDArray[np.int_], tokens: Float) -> Affine:
    """What the units' arguments take from the coordinates `rows`, from the bias, and from a token there.

    Exact where the numbers used lie on one coarse grid; what float64 may lose else is in the slack.

    Args:
        mlp: the units.
        state: the stream, apart from the token.
        rows: the coordinates that count.
        tokens: what each token adds to the stream, shape [tokens, d_model]; one row of zeros for none.
    """
    read = mlp.w_in.astype(np.float64)[rows]
    used = np.flatnonzero(np.asarray(abs(read).sum(axis=1)).ravel())
    read, at = read[used], rows[used]
    bias = mlp.bias_in.astype(np.float64)
    centre = np.asarray(state.centre[at] @ read) + bias + np.asarray(tokens[:, at] @ read)
    terms = 2 * int(np.diff(read.tocsc().indptr).max(initial=0))
    lost = common_slack([([read.data, state.centre[at]], terms), ([read.data, tokens[:, at]], terms), ([bias], 1)])
    return Affine(centre, np.asarray(state.radius[at] @ abs(read)) * INFLATION + lost)


def written_by(mlp: MlpWeights, units: NDArray[np.int_], state: Box) -> Box:
    """What some units of an MLP write, for every stream in a box."""
    bias = mlp.bias_in.astype(np.float64)[units]
    hidden = plus(image(state, mlp.w_in.astype(np.float64)[:, units]), Box(bias, np.zeros(len(units))))
    return image(rectified(hidden), mlp.w_out.astype(np.float64)[units])


def readers(mlp: MlpWeights, coordinates: NDArray[np.int_]) -> NDArray[np.int_]:
    """The units that read one of the coordinates."""
    block = mlp.w_in[coordinates].tocoo()
    return np.unique(block.coords[1][block.data != 0]).astype(np.int_)


def writers(mlp: MlpWeights, coordinates: NDArray[np.int_]) -> NDArray[np.int_]:
    """The units that write one of the coordinates."""
    block = mlp.w_out[:, coordinates].tocoo()
    return np.unique(block.coords[0][block.data != 0]).astype(np.int_)

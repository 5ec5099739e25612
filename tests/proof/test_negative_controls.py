"""Symmetries that an architecture does not have are refuted when they are forced, and their true siblings hold."""

import pytest
import torch
from tests.laws.nets import Lambda, Net, features, lin
from torch import nn

import weyl
from weyl.groups import GaugeKind, Space
from weyl.structure import Absorption, Block, Structure
from weyl.testing import force

X = features(5, 4)
HIDDEN = (("0.weight", 0, 1), ("0.bias", 0, 1))


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return build()


def mlp(activation, bias=True):
    return seeded(lambda: nn.Sequential(lin(4, 6), activation, lin(6, 3, bias)))


def claim(model, inputs, kind, space, places, **options):
    """The claim that a gauge acts on a model, beside the permutations that it has."""
    model = model.double()
    return model, inputs, force(weyl.discover(model, inputs), kind, space, places, **options)


def claim_hidden(activation, kind, exponent=1, bias=True, **options):
    places = (*HIDDEN, ("2.weight", 1, exponent))
    return claim(mlp(activation, bias), (X.double(),), kind, "0", places, **options)


def flips(bias, absorbed):
    constants = [Absorption("2.bias", "2.weight", 1, Block(0, (("0", 6, 1),)))] if absorbed else []
    return claim_hidden(nn.Sigmoid(), GaugeKind.SIGN, bias=bias, absorptions=constants)


def normed(norm, kind):
    """A residual stream that a norm reads."""
    model = seeded(
        lambda: Net(lambda n, x: n.o(n.n(n.e(x) + n.b(n.e(x)))), e=lin(4, 6), b=lin(6, 6), n=norm(), o=lin(6, 3))
    )
    places = (("e.weight", 0, 1), ("e.bias", 0, 1), ("b.weight", 0, 1), ("b.weight", 1, 1), ("b.bias", 0, 1))
    return claim(model, (X.double(),), kind, Space("stream", 6), (*places, ("o.weight", 1, 1)))


def rotated(x):
    """Rotary embeddings of a tensor of shape (batch, heads, positions, 4)."""
    angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * torch.tensor([1.0, 0.1], dtype=x.dtype)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    return x * cos + torch.cat([-x[..., 2:], x[..., :2]], -1) * sin


def attention(rope, kind, places, **options):
    """Two heads of size 4 over three positions; ``rope`` may turn queries and keys."""

    def forward(n, x):
        q, k, v = (p(x).unflatten(-1, (2, 4)).transpose(1, 2) for p in (n.q, n.k, n.v))
        q, k = (rotated(q), rotated(k)) if rope else (q, k)
        return n.o((q @ k.mT / 2).softmax(-1).matmul(v).transpose(1, 2).flatten(2))

    model = seeded(lambda: Net(forward, q=lin(4, 8), k=lin(4, 8), v=lin(4, 8), o=lin(8, 3)))
    return claim(model, (features(2, 3, 4).double(),), kind, Space("inside", 4), places, **options)


QUERIES = (("q.weight", 0, 1), ("q.bias", 0, 1))
QK = (*QUERIES, ("k.weight", 0, -1), ("k.bias", 0, -1))
VO = (("v.weight", 0, 1), ("v.bias", 0, 1), ("o.weight", 1, -1))
TRANSLATION = GaugeKind.TRANSLATION

FALSE = {
    "sign under relu": lambda: claim_hidden(nn.ReLU(), GaugeKind.SIGN),
    "sign under gelu": lambda: claim_hidden(nn.GELU(), GaugeKind.SIGN),
    "scale under tanh": lambda: claim_hidden(nn.Tanh(), GaugeKind.SCALE, -1),
    "scale under relu, not undone": lambda: claim_hidden(nn.ReLU(), GaugeKind.SCALE, 1),
    "rotation under tanh": lambda: claim_hidden(nn.Tanh(), GaugeKind.ORTHOGONAL),
    "rotation under layer norm with gain": lambda: normed(lambda: nn.LayerNorm(6), GaugeKind.CENTRED),
    "rotation under layer norm, not centred": lambda: normed(
        lambda: nn.LayerNorm(6, elementwise_affine=False), GaugeKind.ORTHOGONAL
    ),
    "rotation under rms norm with gain": lambda: normed(lambda: nn.RMSNorm(6), GaugeKind.ORTHOGONAL),
    "GL under rms norm": lambda: normed(lambda: nn.RMSNorm(6, elementwise_affine=False), GaugeKind.LINEAR),
    "GL on QK under RoPE": lambda: attention(True, GaugeKind.LINEAR, QK),
    "scales on QK under RoPE": lambda: attention(True, GaugeKind.SCALE, QK),
    "GL on QK, keys alike": lambda: attention(False, GaugeKind.LINEAR, tuple((n, d, 1) for n, d, _ in QK)),
    "translated queries": lambda: attention(False, TRANSLATION, (("q.bias", 0, 1),), coefficient=1.0),
    "translated keys under RoPE": lambda: attention(True, TRANSLATION, (("k.bias", 0, 1),), coefficient=1.0),
    "sigmoid flip, reader without bias": lambda: flips(bias=False, absorbed=False),
    "sigmoid flip, constant forgotten": lambda: flips(bias=True, absorbed=False),
}

TRUE = {
    "sign under tanh": lambda: claim_hidden(nn.Tanh(), GaugeKind.SIGN),
    "sign under sin": lambda: claim_hidden(Lambda(torch.sin), GaugeKind.SIGN),
    "scale under relu": lambda: claim_hidden(nn.ReLU(), GaugeKind.SCALE, -1),
    "GL without activation": lambda: claim_hidden(nn.Identity(), GaugeKind.LINEAR, -1),
    "rotation under layer norm without gain": lambda: normed(
        lambda: nn.LayerNorm(6, elementwise_affine=False), GaugeKind.CENTRED
    ),
    "rotation under rms norm without gain": lambda: normed(
        lambda: nn.RMSNorm(6, elementwise_affine=False), GaugeKind.ORTHOGONAL
    ),
    "GL on QK": lambda: attention(False, GaugeKind.LINEAR, QK),
    "GL on VO under RoPE": lambda: attention(True, GaugeKind.LINEAR, VO),
    "translated keys": lambda: attention(False, TRANSLATION, (("k.bias", 0, 1),), coefficient=1.0),
    "sigmoid flip": lambda: flips(bias=True, absorbed=True),
}


def moves(structure: Structure) -> str:
    return structure.gauges[-1].kind.move


@pytest.mark.parametrize("name", FALSE)
def test_a_forced_symmetry_fails(name):
    model, inputs, false = FALSE[name]()
    proof = weyl.verify(model, inputs, structure=false)
    move = moves(false)
    assert proof.verdict == "fails"
    assert move in proof.reason
    assert proof.kinds[move].max_relative_error > 1e6 * proof.tolerance
    assert all(found.max_relative_error < proof.tolerance for other, found in proof.kinds.items() if other != move)


@pytest.mark.parametrize("name", TRUE)
def test_a_true_sibling_holds(name):
    model, inputs, true = TRUE[name]()
    proof = weyl.verify(model, inputs, structure=true)
    assert proof.holds, proof
    assert proof.kinds[moves(true)].max_relative_error < 1e-13
    assert proof.kinds[moves(true)].detected


def test_a_place_that_is_not_there_is_refused():
    structure = weyl.discover(mlp(nn.ReLU()), (X,))
    for name, dim in (("3.weight", 0), ("0.weight", 2), ("2.bias", 0)):
        with pytest.raises(weyl.StructureError, match=name):
            force(structure, GaugeKind.SIGN, "0", ((name, dim, 1),))


def test_a_claim_may_stand_beside_what_is_there():
    model = mlp(nn.Tanh()).double()
    structure = weyl.discover(model, (X.double(),))
    both = force(structure, GaugeKind.SCALE, "0", (*HIDDEN, ("2.weight", 1, -1)), alone=False)
    assert both.gauges[:-1] == structure.gauges
    proof = weyl.verify(model, (X.double(),), structure=both)
    assert proof.verdict == "fails"
    assert proof.kinds["sign"].max_relative_error < proof.tolerance < proof.kinds["scale"].max_relative_error

"""The call itself: what it refuses, what it says, what it leaves alone."""

import ast
import inspect

import pytest
import torch
from torch import nn

import weyl
from weyl.trace import capture

X = (torch.zeros(2, 4),)


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


class Two(nn.Module):
    """Two layers and a function between them."""

    def __init__(self, between):
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(6, 3)
        self.between = between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else x


class Strange:
    """Something that torch.export cannot return."""

    def __init__(self, logits):
        self.logits = logits


class ReturnsStrange(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return Strange(self.net(x))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: weyl.discover(mlp(), (torch.zeros(2, 5),)), weyl.InputError, "does not accept"),
        (lambda: weyl.discover(mlp(), X[0]), weyl.InputError, "tuple"),
        (lambda: weyl.discover(mlp()), weyl.InputError, "does not accept"),
        (lambda: weyl.discover(lambda x: x, X), weyl.InputError, r"torch\.nn\.Module"),
        (lambda: weyl.discover(mlp().to("meta"), X), weyl.InputError, "meta"),
        (lambda: weyl.discover(nn.Sequential(nn.LazyLinear(3)), X), weyl.InputError, "lazy"),
        (lambda: weyl.discover(torch.jit.script(mlp()), X), weyl.InputError, "TorchScript"),
        (lambda: weyl.discover(Branch(), X), weyl.CaptureError, r"torch\.where"),
        (lambda: weyl.discover(ReturnsStrange(), X), weyl.CaptureError, "output="),
        (lambda: weyl.discover(mlp(), X, fixed=["nope.*"]), weyl.InputError, "matches no"),
        (lambda: weyl.discover(mlp(), X, fixed=["0.weigth"]), weyl.InputError, r"did you mean '0\.weight'"),
        (lambda: weyl.discover(mlp(), X, fixed="0.weight"), weyl.InputError, "list of patterns"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_refusals_are_one_line(call, error, says):
    with pytest.raises(error, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_output_picks_what_counts():
    structure = weyl.discover(ReturnsStrange(), X, output=lambda result: result.logits)
    assert int(structure.group.order) == 720
    assert weyl.verify(ReturnsStrange(), X, structure=structure, output=lambda result: result.logits).holds


def test_what_is_held_still_says_why():
    structure = weyl.discover(Two(lambda h: h.cumsum(-1)), X)
    assert structure.group.permutation_order.trivial
    assert structure.group.symbol == "R*"  # one number for a.weight, its inverse for b.weight
    assert structure.pinned["a.weight[0]"] == structure.pinned["b.weight[1]"] == "positions of a cumsum"
    assert structure.pinned["a.weight[1]"] == "an input of the model"
    assert structure.pinned["b.weight[0]"] == "an output of the model"
    assert "a.weight[0]" not in weyl.discover(Two(torch.tanh), X).pinned


def test_strict_raises_and_the_default_names_what_was_pinned():
    model = Two(lambda h: torch.fft.fft(h).abs())
    opaque = weyl.discover(model, X).opaque
    assert [o.op for o in opaque] == ["aten.fft_fft.default"]
    assert set(opaque[0].pinned) == {"a.weight[0]", "a.bias[0]", "b.weight[1]"}
    with pytest.raises(weyl.OpaqueError, match=r"aten\.fft_fft"):
        weyl.discover(model, X, strict=True)


def test_capture_prints_and_warns_nothing(capsys, recwarn):
    capture(nn.LSTM(4, 6), (torch.zeros(5, 2, 4),))
    with pytest.raises(weyl.CaptureError):
        capture(Branch(), X)
    assert tuple(capsys.readouterr()) == ("", "")
    assert len(recwarn) == 0


def test_public_names_agree():
    tree = ast.parse(inspect.getsource(weyl))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.asname for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == set(weyl._HOMES)
    assert set(weyl.__all__) == {"__version__", *weyl._HOMES}
    assert all(getattr(weyl, name) is not None for name in weyl.__all__)
    with pytest.raises(AttributeError, match="nothing_like_this"):
        weyl.nothing_like_this  # noqa: B018

"""Layer profiles against scikit-learn, and the cut against actually cutting."""

import json

import pytest
import torch
from sklearn.neighbors import NearestCentroid
from tests.geometry import oracle
from torch import nn

import weyl
from weyl.data import digits
from weyl.errors import InputError, UsageError
from weyl.geometry import layer_profile


def build():
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 40),
        nn.ReLU(),
        nn.Sequential(nn.Linear(40, 30), nn.ReLU(inplace=True)),
        nn.Linear(30, 20),
        nn.ReLU(),
        nn.Linear(20, 10),
    )


@pytest.fixture(scope="module")
def trained():
    data = digits(600, held_out=200)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(200):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(data.train_x), data.train_y).backward()
            optimiser.step()
    return model.train(), data


def pairs(x, y, size=150):
    return list(zip(torch.split(x, size), torch.split(y, size), strict=True))


def outputs(model, x, layers):
    """Outputs by hand: every named layer of a chain."""
    found = {}
    with torch.no_grad():
        for name, module in model.named_children():
            for inner, part in module.named_children():
                x = part(x).clone()
                found[f"{name}.{inner}"] = x.clone()
            x = x if list(module.children()) else module(x)
            found[name] = x.clone()
    return {name: found[name].numpy() for name in layers}


# Units that are zero on a whole class.
pytestmark = pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")

LAYERS = ["1", "2", "3.0", "3.1", "4", "5"]


def test_every_layer_against_nearest_centroids(trained):
    model, data = trained
    train, test = pairs(data.train_x, data.train_y), pairs(data.test_x, data.test_y)
    here, there = layer_profile(model, train), layer_profile(model, train, held_out=test)
    assert [row.layer for row in here.layers] == LAYERS == [row.layer for row in there.layers]
    inside, outside = outputs(model, data.train_x, LAYERS), outputs(model, data.test_x, LAYERS)
    for one, other in zip(here.layers, there.layers, strict=True):
        x = inside[one.layer].astype(float)
        centroids = NearestCentroid().fit(x, data.train_y.numpy())
        assert one.accuracy == pytest.approx(centroids.score(x, data.train_y.numpy()), abs=2 / 600)
        score = centroids.score(outside[one.layer].astype(float), data.test_y.numpy())
        assert other.accuracy == pytest.approx(score, abs=2 / 200)
        expected = oracle.measure(x, data.train_y, 10)
        assert one.nc1 == other.nc1 == pytest.approx(expected["nc1"], rel=1e-5)
        assert one.nc1_ratio == pytest.approx(expected["nc1_ratio"], rel=1e-5)
        assert one.dim == x.shape[1]
    with torch.no_grad():
        model.eval()
        for found, x, y in ((here, data.train_x, data.train_y), (there, data.test_x, data.test_y)):
            assert found.accuracy == pytest.approx(float((model(x).argmax(1) == y).double().mean()))
        model.train()
    assert (here.held_out, there.held_out) == (False, True)


def test_parameters_are_those_of_the_tail(trained):
    model, data = trained
    found = layer_profile(model, pairs(data.train_x, data.train_y), layers=[*LAYERS, "3"])
    sizes = {name: sum(p.numel() for p in model[int(name)].parameters()) for name in "0123456"}
    for row in found.layers:
        place = int(row.layer[0])
        assert row.parameters == sum(n for name, n in sizes.items() if int(name) > place), row.layer


def test_the_cut_does_what_it_says(trained):
    """Cut the network there, put nearest class means in place of the tail, and measure."""
    model, data = trained
    train, test = pairs(data.train_x, data.train_y), pairs(data.test_x, data.test_y)
    for tolerance in (0.01, 0.05, 0.3):
        found = layer_profile(model, train, held_out=test, tolerance=tolerance)
        cut = found.cut
        assert cut is not None
        x, new = outputs(model, data.train_x, [cut.layer])[cut.layer], outputs(model, data.test_x, [cut.layer])
        score = NearestCentroid().fit(x.astype(float), data.train_y).score(new[cut.layer].astype(float), data.test_y)
        assert cut.accuracy == pytest.approx(score, abs=1e-9) and cut.accuracy >= found.accuracy - tolerance
        assert cut.loss == pytest.approx(found.accuracy - cut.accuracy)
        earlier = LAYERS[: LAYERS.index(cut.layer)]
        assert all(row.accuracy < found.accuracy - tolerance for row in found.layers if row.layer in earlier)
        row = next(row for row in found.layers if row.layer == cut.layer)
        assert cut.parameters == row.parameters - 10 * row.dim > 0


def test_nothing_is_cut_if_no_layer_does_as_well():
    """Classes inside and outside a ball: their means coincide in every layer that is linear."""
    x = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    y = (x.norm(dim=1) > 2.0).long()

    class Ball(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(5, 5), nn.Linear(1, 2)
            with torch.no_grad():
                self.body.weight.copy_(torch.eye(5)), self.body.bias.zero_()
                self.head.weight.copy_(torch.tensor([[-1.0], [1.0]])), self.head.bias.copy_(torch.tensor([2.0, -2.0]))

        def forward(self, x):
            return self.head(self.body(x).norm(dim=1, keepdim=True))

    found = layer_profile(Ball(), [(x, y)])
    assert found.accuracy == 1 and found.layers[0].accuracy < 0.8 and found.cut is None
    assert found.to_dict()["cut"] is None


def test_rows_come_in_the_order_in_which_layers_ran(trained):
    model, data = trained
    found = layer_profile(model, pairs(data.train_x, data.train_y), layers=["5", "1", "2"], tolerance=1.0)
    assert [row.layer for row in found.layers] == ["1", "2", "5"]
    assert found.cut.layer == "1"


def test_blocks_can_be_profiled_and_cut_after(trained):
    model, data = trained
    found = layer_profile(model, pairs(data.train_x, data.train_y), layers=["3"], tolerance=1.0)
    assert found.layers[0].parameters == 30 * 20 + 20 + 20 * 10 + 10
    assert found.cut.layer == "3"


def test_the_classifier_is_no_place_to_cut(trained):
    model, data = trained
    try:
        rows = layer_profile(model, pairs(data.train_x, data.train_y), layers=["5", "6"]).layers
    except UsageError as error:
        assert "'6'" in str(error)
    else:
        assert [(row.layer, row.dim) for row in rows] == [("5", 20), ("6", 10)]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.lstm, self.head = nn.Linear(6, 8), nn.LSTM(8, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.lstm(self.body(x)[:, None])[0][:, -1])


def test_parameters_of_modules_that_return_tuples_count():
    model = Recurrent()
    x, y = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    found = layer_profile(model, [(x, y)], layers=["body"])
    assert found.layers[0].parameters == sum(p.numel() for m in (model.lstm, model.head) for p in m.parameters())


def test_shared_layers_stay_where_they_are_needed():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.shared, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            x = self.shared(self.first(x).relu())
            return self.last(self.shared(x))

    x, y = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    found = layer_profile(Twice(), [(x, y)])
    assert [(row.layer, row.parameters) for row in found.layers] == [("first", 20 + 15)]


def test_modes_hooks_and_random_state(trained):
    model, data = trained
    state = torch.get_rng_state()
    layer_profile(model, pairs(data.train_x, data.train_y), held_out=pairs(data.test_x, data.test_y))
    assert torch.equal(torch.get_rng_state(), state) and all(m.training for m in model.modules())
    assert not any(m._forward_hooks for m in model.modules())


def test_generators_and_output_forms(trained):
    model, data = trained
    found = layer_profile(
        model, iter(pairs(data.train_x, data.train_y)), held_out=iter(pairs(data.test_x, data.test_y))
    )
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["cut"]["layer"] == found.cut.layer
    assert list(found.to_frame().index) == LAYERS and len(found.rows()) == len(LAYERS)


def test_refusals(trained):
    model, data = trained
    loader = pairs(data.train_x, data.train_y)
    with pytest.raises(UsageError, match="layer 'nope' is not in the model"):
        layer_profile(model, loader, layers=["nope"])
    with pytest.raises(InputError, match="the loader gives no batches"):
        layer_profile(model, [])
    with pytest.raises(InputError, match="held-out loader gives no batches"):
        layer_profile(model, loader, held_out=[])
    with pytest.raises(InputError, match="has no labels"):
        layer_profile(model, loader, held_out=[data.test_x])
    assert weyl.layer_profile is layer_profile

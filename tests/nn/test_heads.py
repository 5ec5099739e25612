"""Simplex heads: the geometry of the weights, and everything that a module of torch must survive."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import nn

import weyl
from weyl.errors import UsageError
from weyl.geometry import simplex_optimum
from weyl.nn import SimplexHead

MODES = {
    "fixed": {},
    "unrotated": {"seed": None},
    "trainable": {"trainable": True},
    "scaled": {"scale": 2.5},
    "learned": {"learn_scale": True, "bias": True},
    "parameter-free": {"parameter_free": True},
    "parameter-free scaled": {"parameter_free": True, "scale": 0.5},
}
DIM, K = 12, 5
modes = pytest.mark.parametrize("options", MODES.values(), ids=MODES)


def head(options, **more):
    return SimplexHead(DIM, K, **options, **more)


def features(n=7, dtype=torch.float64):
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(1), dtype=dtype)


def simplex_defect(weight):
    """Distance of the Gram matrix from that of a centred regular simplex of the same size."""
    gram = weight.detach().double() @ weight.detach().double().T
    k = len(gram)
    ideal = (torch.eye(k, dtype=torch.float64) - 1 / k) * gram.trace() / (k - 1)
    return float((gram - ideal).norm() / gram.norm())


@modes
def test_weight_is_a_regular_simplex_and_gives_the_logits(options):
    module = head(options, dtype=torch.float64)
    assert module.weight.shape == (K, DIM)
    assert simplex_defect(module.weight) < 1e-12
    x = features()
    torch.testing.assert_close(module(x), x @ module.weight.T, rtol=1e-12, atol=1e-12)


def test_the_defect_sees_weights_that_are_no_simplex():
    assert simplex_defect(nn.Linear(DIM, K).weight.detach()) > 0.1


@pytest.mark.parametrize(("k", "dim"), [(2, 1), (2, 5), (10, 9), (100, 128)])
def test_class_vectors_have_the_norm_of_the_scale(k, dim):
    weight = SimplexHead(dim, k, scale=3.0, dtype=torch.float64).weight
    torch.testing.assert_close(weight.norm(dim=1), torch.full((k,), 3.0, dtype=torch.float64))
    cosines = (weight @ weight.T / 9)[~torch.eye(k, dtype=torch.bool)]
    torch.testing.assert_close(cosines, torch.full_like(cosines, -1 / (k - 1)))


def test_parameter_free_logits_are_the_first_features_less_their_mean():
    x = features()
    torch.testing.assert_close(
        SimplexHead(DIM, K, parameter_free=True)(x), x[:, :K] - x[:, :K].mean(1, keepdim=True), rtol=0, atol=0
    )
    module = SimplexHead(DIM, K, parameter_free=True)
    assert not list(module.parameters()) and not list(module.buffers()) and not module.state_dict()


@pytest.mark.parametrize(
    ("options", "parameters", "saved"),
    [
        ({}, [], ["weight"]),
        ({"trainable": True}, ["weight"], ["weight"]),
        ({"bias": True}, ["bias"], ["bias", "weight"]),
        ({"learn_scale": True}, ["log_scale"], ["log_scale", "weight"]),
        ({"parameter_free": True, "scale": 4.0}, [], []),
    ],
)
def test_what_is_trained_and_what_is_saved(options, parameters, saved):
    module = head(options)
    assert sorted(name for name, _ in module.named_parameters()) == parameters
    assert sorted(module.state_dict()) == saved


def test_the_learned_scale_multiplies_the_logits_and_changes_no_prediction():
    module = head({"learn_scale": True, "bias": True}, dtype=torch.float64)
    with torch.no_grad():
        module.bias.copy_(torch.linspace(-1, 1, K))
        before = module(features())
        module.log_scale.fill_(math.log(3.0))
        torch.testing.assert_close(module(features()), 3 * before)
    module(features()).square().sum().backward()
    assert module.log_scale.grad is not None and float(module.log_scale.grad) != 0


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_the_scale_bounds_the_loss_of_normalised_features(scale):
    """The reason for a scale: with features of norm 1 a fixed head cannot bring the loss below this."""
    module = head({"scale": scale, "seed": 0}, dtype=torch.float64)
    least = math.log1p((K - 1) * math.exp(-scale * K / (K - 1)))
    labels = torch.arange(K)
    x = nn.functional.normalize(features(K), dim=1).requires_grad_()
    optimiser = torch.optim.LBFGS([x], max_iter=300, tolerance_change=0, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(module(nn.functional.normalize(x, dim=1)), labels)
        value.backward()
        return value

    first = loss().item()
    optimiser.step(loss)
    assert first > 2 * least * (1 - 1e-9) or scale == 1
    assert least * (1 - 1e-9) <= loss().item() <= least * (1 + 1e-5)
    optimum = simplex_optimum(K, scale * math.sqrt(K / (K - 1)))
    assert optimum.risk == pytest.approx(least, rel=1e-12)


def reach(weight):
    """Residual of the best non-negative features that should give the optimal logits."""
    k = len(weight)
    optimum = np.eye(k) - 1 / k
    return max(nnls(weight.numpy(), target)[1] for target in optimum)


def test_features_after_a_relu_reach_the_optimum_without_parameters_and_not_unrotated():
    assert reach(SimplexHead(DIM, K, parameter_free=True, dtype=torch.float64).weight) < 1e-9
    assert reach(SimplexHead(DIM, K, seed=None, dtype=torch.float64).weight) > 0.1


@pytest.mark.parametrize(("dim", "share"), [(4, 1 / 8), (6, 1 / 2), (12, 1 - 67 / 2**11)])
def test_rotated_heads_reach_it_as_often_as_wendel_says(dim, share):
    k, draws = 4, 300
    heads = (SimplexHead(dim, k, seed=seed, dtype=torch.float64) for seed in range(draws))
    found = sum(reach(each.weight) < 1e-9 for each in heads)
    assert abs(found - draws * share) < 4 * math.sqrt(draws * share * (1 - share))


@pytest.mark.parametrize(("seed", "learns"), [(0, True), (None, False)])
def test_training_after_a_relu(seed, learns):
    k = 4
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(k, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), SimplexHead(24, k, seed=seed))
    x, labels = 3 * torch.eye(k).repeat(5, 1), torch.arange(k).repeat(5)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), labels).backward()
        optimiser.step()
    assert bool((net(x).argmax(1) == labels).all()) is learns


def test_rotation_follows_the_seed_and_leaves_random_state_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (SimplexHead(DIM, K, **options).weight for options in ({}, {"seed": 0}, {"seed": 2}))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    plain = SimplexHead(DIM, K, seed=None).weight
    assert torch.count_nonzero(plain[:, K - 1 :]) == 0
    assert torch.count_nonzero(first[:, K - 1 :]) > 0


@modes
def test_state_dict_round_trip_is_strict(options):
    module, fresh = head(options), head(options)
    with torch.no_grad():
        for value in module.state_dict().values():
            value.mul_(1.5).add_(0.25)
    stream = io.BytesIO()
    torch.save(module.state_dict(), stream)
    stream.seek(0)
    fresh.load_state_dict(torch.load(stream, weights_only=True), strict=True)
    x = features(dtype=torch.float32)
    assert torch.equal(fresh(x), module(x))


def test_a_state_dict_of_another_mode_is_refused():
    with pytest.raises(RuntimeError, match="Missing key"):
        SimplexHead(DIM, K).load_state_dict(SimplexHead(DIM, K, parameter_free=True).state_dict())


@modes
def test_deepcopy_is_independent(options):
    module = head(options)
    twin = copy.deepcopy(module)
    x = features(dtype=torch.float32)
    assert torch.equal(twin(x), module(x)) and torch.equal(twin.weight, module.weight)
    for value in twin.state_dict().values():
        value.fill_(7)
    assert not module.state_dict() or float(module.weight.detach().max()) < 7


@modes
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_moves(options, dtype):
    module = head(options).to(dtype)
    assert module.weight.dtype == dtype
    assert module(features(dtype=dtype)).dtype == dtype
    assert {t.dtype for t in module.state_dict().values()} <= {dtype}


@modes
def test_meta_device_and_back(options):
    with torch.device("meta"):
        module = head(options)
    assert module.weight.device.type == "meta"
    assert module(torch.empty(3, DIM, device="meta")).shape == (3, K)
    real = module.to_empty(device="cpu")
    real.reset_parameters()
    x = features(dtype=torch.float32)
    assert torch.equal(real(x), head(options)(x))


@modes
def test_export_and_compile_give_the_same_logits(options):
    module = head(options)
    x = features(dtype=torch.float32)
    exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("n")},)).module()
    more = features(11, torch.float32)
    torch.testing.assert_close(exported(more), module(more))
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x))
    torch.compiler.reset()


@modes
def test_symmetry_is_found_and_holds(options):
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, DIM), nn.Tanh(), head(options))
    x = (torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),)
    structure = weyl.discover(net, x)
    proof = weyl.verify(net, x, structure=structure)
    assert proof.holds, proof.reason
    assert not structure.opaque
    # Hidden units of the first layer move freely; the parameter-free head holds the k units that are its logits.
    free = DIM - K if options.get("parameter_free") else DIM
    assert int(structure.group.permutation_order) == math.factorial(6) * math.factorial(free)
    assert structure.group.dimension == 6


@modes
def test_gradients_reach_the_features(options):
    x = features().requires_grad_()
    assert torch.autograd.gradcheck(head(options, dtype=torch.float64), (x,))


def test_any_leading_dimensions():
    for options in MODES.values():
        assert head(options)(torch.zeros(2, 3, DIM)).shape == (2, 3, K)
        assert head(options)(torch.zeros(DIM)).shape == (K,)


@pytest.mark.parametrize(
    ("dim", "k", "options", "message"),
    [
        (3, 5, {}, r"a simplex head of 5 classes needs dim of at least 4, got 3"),
        (4, 5, {"parameter_free": True}, r"a parameter-free head of 5 classes needs dim of at least 5, got 4"),
        (4, 1, {}, r"k must be an integer of at least 2, got 1"),
        (4, True, {}, r"k must be an integer"),
        (4.0, 3, {}, r"dim must be an integer of at least 1, got 4\.0"),
        (4, 3, {"scale": 0}, r"scale must be positive and finite, got 0"),
        (4, 3, {"scale": math.inf}, r"scale must be positive"),
        (4, 3, {"parameter_free": True, "trainable": True}, r"a parameter-free head has no trainable weight"),
        (4, 3, {"parameter_free": True, "bias": True}, r"a parameter-free head has no .* bias"),
    ],
)
def test_wrong_arguments(dim, k, options, message):
    with pytest.raises(UsageError, match=message):
        SimplexHead(dim, k, **options)


@modes
def test_features_of_the_wrong_length(options):
    with pytest.raises(UsageError, match=r"features must have shape \(\.\.\., 12\), got \(2, 11\)"):
        head(options)(torch.zeros(2, 11))


def test_repr_names_what_differs_from_the_defaults():
    assert repr(SimplexHead(DIM, K)) == "SimplexHead(dim=12, k=5)"
    assert (
        repr(SimplexHead(DIM, K, scale=2.5, seed=None, bias=True))
        == "SimplexHead(dim=12, k=5, scale=2.5, bias=True, seed=None)"
    )
    assert "parameter_free=True" in repr(SimplexHead(DIM, K, parameter_free=True))


def test_a_fixed_head_trains_the_layers_before_it_only():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 8), SimplexHead(8, 3, scale=4.0))
        angles = torch.arange(60) % 3 * (2 * math.pi / 3)
        x = torch.stack([angles.cos(), angles.sin()], 1) + 0.1 * torch.randn(60, 2)
    labels = torch.arange(60) % 3
    before = net[-1].weight.clone()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(net(x), labels)
        loss.backward()
        optimiser.step()
    assert torch.equal(net[-1].weight, before)
    assert float(loss.detach()) < 0.01 and bool((net(x).argmax(1) == labels).all())

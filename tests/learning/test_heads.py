"""rlarcade.learning.heads against forward passes in plain NumPy and against closed forms."""

import itertools

import numpy as np
import pytest
import torch

from rlarcade.config import NetworkSettings
from rlarcade.learning.heads import Dense, Draws, make_head

B, F, A, H, N = 5, 7, 3, 6, 4
HEADS = ["expected", "categorical", "gauss", "quantile", "implicit"]
OUTPUTS = {"expected": 1, "categorical": N, "gauss": N, "quantile": N, "implicit": 1}
RETURNS = {"expected": 1, "categorical": N, "gauss": N, "quantile": N, "implicit": N}
EVERY = pytest.mark.parametrize(
    ("head", "dueling", "noisy"),
    list(itertools.product(HEADS, [False, True], [False, True])),
    ids=lambda part: part if isinstance(part, str) else ("no", "yes")[part],
)


def seeded(head="expected", *, features=F, seed=0, **settings):
    torch.manual_seed(seed)
    sizes = {"hidden_units": H, "num_atoms": N, "num_quantiles": N, "num_taus": N}
    return make_head(features, A, NetworkSettings(head=head, **{**sizes, **settings}))


def random_features(batch=B, features=F, seed=0):
    """Features as a torso's last ReLU leaves them."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, features, generator=rng).relu()


def drawn(head, batch=B, seed=0):
    return head.draw(batch, np.random.default_rng(seed))


def what_is_learned(returns):
    """The numbers that the last layer decides, (B, A, N)."""
    return returns.values if returns.log_probabilities is None else returns.log_probabilities


def numpy_dense(parameters, name, x, noise=None):
    """x Wᵀ + b, with the noisy weight matrix of Fortunato et al. (2018), eq. 9-11, written out."""
    weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    if noise is not None:
        inputs, outputs = noise
        weight = weight + parameters[f"{name}.weight_sigma"] * np.outer(outputs, inputs)
        bias = bias + parameters[f"{name}.bias_sigma"] * outputs
    return x @ weight.T + bias


def numpy_stream(head, x, noise=None):
    """(rows, F) -> (rows, A, outputs) in float64, for any head without normalisation."""
    p = {name: t.detach().numpy().astype(np.float64) for name, t in head.state_dict().items()}
    names = ["hidden", "values", "state_hidden", "state_values"]
    pairs = {} if noise is None else {n: noise[2 * i : 2 * i + 2] for i, n in enumerate(names)}
    hidden = np.maximum(numpy_dense(p, "hidden", x, pairs.get("hidden")), 0)
    out = numpy_dense(p, "values", hidden, pairs.get("values")).reshape(len(x), A, -1)
    if "state_hidden.weight" not in p:
        return out
    hidden = np.maximum(numpy_dense(p, "state_hidden", x, pairs.get("state_hidden")), 0)
    state = numpy_dense(p, "state_values", hidden, pairs.get("state_values"))
    average = sum(out[:, a] for a in range(A)) / A
    return np.stack([state + out[:, a] - average for a in range(A)], axis=1)


def numpy_returns(head, kind, features, draws=None):
    """What is learned of each action, (B, A, N), in float64."""
    x = features.numpy().astype(np.float64)
    noise = None
    if draws is not None and draws.noise:
        noise = [part.numpy().astype(np.float64) for part in draws.noise]
    if kind == "implicit":
        if draws is None:
            taus = np.array([[(i + 0.5) / N for i in range(N)]] * len(x))
        else:
            taus = draws.taus.numpy().astype(np.float64)
        weight = head.embedding.weight.detach().numpy().astype(np.float64)
        bias = head.embedding.bias.detach().numpy().astype(np.float64)
        values = np.empty((len(x), A, N))
        for b, j in np.ndindex(len(x), N):
            cosines = np.array([np.cos(np.pi * i * taus[b, j]) for i in range(1, 65)])
            embedded = np.maximum(weight @ cosines + bias, 0)
            values[b, :, j] = numpy_stream(head, (x[b] * embedded)[None], noise)[0, :, 0]
        return values
    values = numpy_stream(head, x, noise)
    if kind in ("categorical", "gauss"):
        values = values - np.log(np.exp(values).sum(axis=2, keepdims=True))
    return values


# Values


@EVERY
@pytest.mark.parametrize("with_draws", [False, True], ids=["without draws", "with draws"])
def test_returns_are_those_of_a_forward_pass_in_numpy(head, dueling, noisy, with_draws):
    module, features = seeded(head, dueling=dueling, noisy=noisy), random_features()
    draws = drawn(module) if with_draws else None
    learned = what_is_learned(module(features, draws))
    assert (learned.dtype, tuple(learned.shape)) == (torch.float32, (B, A, RETURNS[head]))
    expected = numpy_returns(module, head, features, draws)
    np.testing.assert_allclose(learned.detach().numpy(), expected, rtol=0, atol=3e-6)
    assert np.median(expected.std(axis=0)) > 1e-3, "features make a difference"


@pytest.mark.parametrize("head", HEADS)
def test_the_returns_of_chosen_actions_are_rows_of_all(head):
    module, action = seeded(head, dueling=True), torch.tensor([2, 0, 1, 1, 2])
    returns = module(random_features())
    chosen, everything = returns.of(action), what_is_learned(returns)
    assert torch.equal(
        what_is_learned(chosen), torch.stack([everything[b, a] for b, a in enumerate(action)])
    )
    assert chosen.taus is returns.taus


def test_log_probabilities_are_normalised_and_the_mean_is_their_expectation():
    module = seeded("categorical", value_min=-3.0, value_max=6.0)
    returns = module(random_features())
    assert returns.values.tolist() == [-3.0, 0.0, 3.0, 6.0]
    probabilities = returns.log_probabilities.exp()
    torch.testing.assert_close(probabilities.sum(dim=2), torch.ones(B, A))
    expected = [
        [sum(p * z for p, z in zip(ps, (-3.0, 0.0, 3.0, 6.0), strict=True)) for ps in row]
        for row in probabilities.tolist()
    ]
    torch.testing.assert_close(returns.mean(), torch.tensor(expected))


@pytest.mark.parametrize("head", ["expected", "quantile", "implicit"])
def test_the_mean_counts_all_returns_alike(head):
    returns = seeded(head)(random_features())
    expected = [[sum(zs) / len(zs) for zs in row] for row in returns.values.tolist()]
    torch.testing.assert_close(returns.mean(), torch.tensor(expected))


def test_categorical_logits_do_not_overflow():
    module = seeded("categorical")
    with torch.no_grad():
        module.values.bias.copy_(torch.arange(A * N) * 1e4)
    returns = module(random_features())
    assert returns.mean().isfinite().all()
    torch.testing.assert_close(returns.mean(), torch.full((B, A), 10.0))


# Quantile fractions


@pytest.mark.parametrize("head", ["quantile", "implicit"])
def test_fractions_without_draws_are_midpoints_and_the_same_each_time(head):
    module, features = seeded(head), random_features()
    returns = module(features)
    assert returns.taus.tolist() == [[0.125, 0.375, 0.625, 0.875]]
    assert torch.equal(returns.values, module(features).values)


def test_drawn_fractions_differ_from_row_to_row_and_go_with_their_values():
    module = seeded("implicit")
    draws, same = drawn(module), random_features(1).expand(B, F)
    returns = module(same, draws)
    assert torch.equal(returns.taus, draws.taus)
    assert len(returns.values[:, 0].unique(dim=0)) == B
    swapped = module(same, draws._replace(taus=draws.taus.flip(0, 1)))
    torch.testing.assert_close(swapped.values, returns.values.flip(0, 2))


@pytest.mark.parametrize("head", ["expected", "categorical", "quantile"])
def test_other_heads_draw_no_fractions(head):
    module, features = seeded(head), random_features()
    draws = drawn(module)
    assert draws == Draws()
    assert torch.equal(module(features, draws).mean(), module(features).mean())


# Dueling


@pytest.mark.parametrize("head", ["expected", "quantile", "categorical"])
def test_advantages_average_to_zero(head):
    module, seen = seeded(head, dueling=True), {}
    module.state_values.register_forward_hook(lambda _, __, output: seen.update(state=output))
    stream = module.stream(random_features())
    assert seen["state"].shape == (B, OUTPUTS[head])
    assert stream.std(dim=1).min() > 1e-4, "actions differ"
    torch.testing.assert_close(
        (stream - seen["state"].unsqueeze(1)).mean(dim=1),
        torch.zeros(B, OUTPUTS[head]),
        rtol=0,
        atol=1e-6,
    )


@EVERY
def test_a_constant_added_to_all_advantages_changes_nothing_if_dueling(head, dueling, noisy):
    module, features = seeded(head, dueling=dueling, noisy=noisy), random_features()
    before = module.stream(features)
    with torch.no_grad():  # another constant for each of the outputs
        module.values.bias.view(A, -1).add_(torch.arange(1.0, OUTPUTS[head] + 1))
    after = module.stream(features)
    if dueling:
        torch.testing.assert_close(after, before, rtol=0, atol=2e-6)
    else:
        assert (after - before).abs().min() > 0.9


def test_the_state_stream_moves_all_actions_alike():
    module, features = seeded("quantile", dueling=True), random_features()
    before = module.stream(features)
    with torch.no_grad():
        module.state_values.bias.add_(torch.arange(1.0, N + 1))
    moved = module.stream(features) - before
    torch.testing.assert_close(moved, torch.arange(1.0, N + 1).expand(B, A, N), rtol=0, atol=2e-6)


# Noise


def noisy_layers(module):
    return [layer for layer in module.modules() if isinstance(layer, Dense)]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dueling", [False, True])
def test_without_sigma_noisy_layers_are_linear(head, dueling):
    module, features = seeded(head, dueling=dueling, noisy=True), random_features()
    with torch.no_grad():
        for layer in noisy_layers(module):
            layer.weight_sigma.zero_()
            layer.bias_sigma.zero_()
    draws = drawn(module)
    plain = module(features, draws._replace(noise=()))
    assert torch.equal(module(features, draws).mean(), plain.mean())


@pytest.mark.parametrize("head", HEADS)
def test_noise_changes_every_value_and_is_off_without_draws(head):
    module, features = seeded(head, noisy=True), random_features()
    quiet = seeded(head, noisy=False)
    quiet.load_state_dict({n: t for n, t in module.state_dict().items() if "sigma" not in n})
    assert torch.equal(module(features).mean(), quiet(features).mean())
    one, other = (module(features, Draws(noise=drawn(module, seed=s).noise)) for s in (0, 1))
    assert (one.mean() != module(features).mean()).all()
    assert (one.mean() != other.mean()).all()


@pytest.mark.parametrize("layer", ["hidden", "values", "state_hidden", "state_values"])
def test_the_noise_of_each_layer_counts(layer):
    module, features = seeded(noisy=True, dueling=True), random_features()
    draws = drawn(module)
    before = module(features, draws).mean()
    with torch.no_grad():
        getattr(module, layer).bias_sigma.add_(1.0)
    assert (module(features, draws).mean() != before).any()


def test_a_noisy_layer_is_its_mean_on_average_with_the_variance_of_independent_factors():
    module, x = seeded(noisy=True, features=9), random_features(2, 9)
    layer, rng = module.hidden, np.random.default_rng(0)
    with torch.no_grad():
        draws = [module.draw(1, rng).noise[:2] for _ in range(4000)]
        outputs = torch.stack([layer(x, noise) for noise in draws])
        mean = layer(x)
    # weights and bias of an output share f(ε_out), whose square is 0.8 on average: E|ε| = √(2/π)
    second, sigma = np.sqrt(2 / np.pi), 0.5 / 3
    variance = sigma**2 * second * ((x**2).sum(dim=1) * second + 1)
    expected = variance.sqrt().unsqueeze(1).expand(2, H)
    torch.testing.assert_close(outputs.std(dim=0), expected, rtol=0.08, atol=0)
    assert ((outputs.mean(dim=0) - mean).abs() < 5 * expected / 4000**0.5).all()


def test_noise_is_signed_roots_of_gaussians():
    module = seeded(noisy=True, features=40_000)
    factors = drawn(module).noise[0].double()
    gaussian = factors.sign() * factors**2
    assert gaussian.mean().item() == pytest.approx(0, abs=5 / 200)
    assert (gaussian**2).mean().item() == pytest.approx(1, abs=5 * 2**0.5 / 200)
    assert (gaussian**4).mean().item() == pytest.approx(3, abs=5 * 96**0.5 / 200)


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_sigma_starts_at_its_share_of_one_over_root_inputs(sigma):
    module = seeded(noisy=True, dueling=True, noisy_sigma=sigma, features=16)
    for layer, inputs in (
        (module.hidden, 16),
        (module.values, H),
        (module.state_hidden, 16),
        (module.state_values, H),
    ):
        for parameter in (layer.weight_sigma, layer.bias_sigma):
            assert parameter.unique().tolist() == pytest.approx([sigma / inputs**0.5])
        assert layer.weight.abs().max() <= inputs**-0.5 * (1 + 1e-6), "μ is an ordinary layer's"


# Draws


@pytest.mark.parametrize("dueling", [False, True])
def test_draws_have_the_shapes_of_layers_and_batch(dueling):
    module = seeded("implicit", noisy=True, dueling=dueling)
    draws = drawn(module)
    sizes = [F, H, H, A] + ([F, H, H, 1] if dueling else [])
    assert [tuple(part.shape) for part in draws.noise] == [(size,) for size in sizes]
    assert tuple(draws.taus.shape) == (B, N)
    assert {part.dtype for part in (*draws.noise, draws.taus)} == {torch.float32}
    assert draws.taus.unique().numel() == B * N
    everything = torch.cat(draws.noise)
    assert everything.unique().numel() == everything.numel(), "no number is used twice"


def test_fractions_are_uniform():
    taus = drawn(seeded("implicit"), batch=5000).taus
    assert ((taus >= 0) & (taus < 1)).all()
    counts = torch.histc(taus, 10, 0, 1)
    assert ((counts - 2000).abs() < 5 * 2000**0.5).all()


def test_fractions_are_left_at_their_midpoints_if_asked_for():
    module, features = seeded("implicit", noisy=True), random_features()
    draws = module.draw(B, np.random.default_rng(0), taus=False)
    assert draws.taus is None
    assert len(draws.noise) == 4
    assert module(features, draws).taus.tolist() == [[0.125, 0.375, 0.625, 0.875]]


def test_draws_are_a_function_of_the_generator():
    module = seeded("implicit", noisy=True, dueling=True)
    rng = np.random.default_rng(3)
    torch.manual_seed(1)
    first, second = module.draw(B, rng), module.draw(B, rng)
    torch.manual_seed(2)
    again = drawn(module, seed=3)
    for one, same, other in zip(
        (*first.noise, first.taus),
        (*again.noise, again.taus),
        (*second.noise, second.taus),
        strict=True,
    ):
        assert torch.equal(one, same)
        assert (one != other).any()


# Parameters


def expected_shapes(head, *, dueling, noisy, norm):
    outputs = OUTPUTS[head]
    layers = {"hidden": (H, F), "values": (A * outputs, H)}
    if dueling:
        layers |= {"state_hidden": (H, F), "state_values": (outputs, H)}
    shapes = {}
    for name, (rows, columns) in layers.items():
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
        if noisy:
            shapes |= {f"{name}.weight_sigma": (rows, columns), f"{name}.bias_sigma": (rows,)}
    if norm != "none":
        for name in ("hidden_norm", "state_norm") if dueling else ("hidden_norm",):
            shapes |= {f"{name}.weight": (H,), f"{name}.bias": (H,)}
    if head == "implicit":
        shapes |= {"embedding.weight": (F, 64), "embedding.bias": (F,)}
    return shapes


@EVERY
@pytest.mark.parametrize("norm", ["none", "layer", "channel"])
def test_parameters_have_these_names_and_shapes(head, dueling, noisy, norm):
    module = seeded(head, dueling=dueling, noisy=noisy, norm=norm)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    assert shapes == expected_shapes(head, dueling=dueling, noisy=noisy, norm=norm)
    assert set(module.state_dict()) == set(shapes), "what settings say is not stored"


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_reaches_every_parameter(head, dueling, noisy, dtype):
    module = seeded(head, dueling=dueling, noisy=noisy, norm="layer")
    features = random_features().to(dtype)
    learned = what_is_learned(module(features, drawn(module)))
    weights = torch.randn(learned.shape, generator=torch.Generator().manual_seed(1))
    (learned * weights).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32, name
        assert parameter.grad.abs().max() > 0, name


# bf16


@EVERY
def test_the_last_layers_multiply_in_fp32(head, dueling, noisy):
    module, seen = seeded(head, dueling=dueling, noisy=noisy), {}
    layers = ["hidden", "values"] + (["state_hidden", "state_values"] if dueling else [])
    for name in layers:
        getattr(module, name).register_forward_hook(
            lambda _, inputs, output, name=name: seen.update(
                {name: (inputs[0].dtype, output.dtype)}
            )
        )
    returns = module(random_features().bfloat16(), drawn(module))
    for name in layers:
        dtype = torch.bfloat16 if "hidden" in name else torch.float32
        assert seen[name] == (dtype, dtype), name
    assert what_is_learned(returns).dtype == returns.mean().dtype == torch.float32


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dueling", [False, True])
def test_bf16_picks_the_action_of_fp32_unless_rounding_can_hide_the_gap(head, dueling):
    module = seeded(head, features=64, hidden_units=32, dueling=dueling)
    features = random_features(300, 64).bfloat16()  # so that the inputs are the same
    with torch.no_grad():
        exact, rounded = module(features.float()).mean(), module(features).mean()
    assert not torch.equal(exact, rounded)
    # 8 bits: 0.4 % of what is summed, a few times over
    rounding = 0.02 * exact.abs().max()
    assert (exact - rounded).abs().max() < rounding
    best, second = exact.topk(2, dim=1).values.T
    clear = best - second > 2 * rounding
    assert clear.float().mean() > 0.3
    assert torch.equal(exact.argmax(dim=1)[clear], rounded.argmax(dim=1)[clear])


def test_cosines_are_taken_in_fp32_even_if_features_are_bf16():
    module, seen = seeded("implicit", features=64), {}
    module.hidden.register_forward_hook(lambda _, inputs, __: seen.update(x=inputs[0]))
    features, draws = torch.ones(B, 64), drawn(module)
    module(features, draws)
    exact = seen["x"]
    module(features.bfloat16(), draws)
    # in bf16 an angle of 64π is off by half a radian, and cosines by as much
    assert (seen["x"].float() - exact).abs().max() < 0.02

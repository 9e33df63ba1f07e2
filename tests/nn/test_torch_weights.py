"""`torch.nn.LSTM` as the reference, by mapping the weights both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nn import LSTM, LSTMCarry, LSTMCell
from jaxgen.nn.torch_weights import from_torch, to_torch


@pytest.mark.parametrize("bidirectional", [False, True])
def test_there_and_back(bidirectional):
    module = LSTM((6, 6), bidirectional=bidirectional)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((2, 3, 4)))["params"]
    returned = from_torch(to_torch(params))
    assert jax.tree.structure(returned) == jax.tree.structure(dict(params))
    jax.tree.map(np.testing.assert_array_equal, dict(params), returned)


def test_unknown_keys_and_layer_norm_are_refused():
    with pytest.raises(UserError, match="weight_hr_l0"):
        from_torch({"weight_hr_l0": np.zeros((2, 2))})
    with pytest.raises(UserError, match=r"`weight_ih` is not.*so end their names in _l0"):
        from_torch({"weight_ih": np.zeros((4, 2)), "weight_hh": np.zeros((4, 1))})
    module = LSTM((6,), cell="layernorm_lstm")
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((2, 3, 4)))["params"]
    with pytest.raises(UserError, match="layer-normalised"):
        to_torch(params)


@pytest.mark.peers("torch")
@pytest.mark.parametrize("bidirectional", [False, True])
def test_outputs_and_gradients_equal_pytorch(bidirectional):
    import torch

    torch.manual_seed(0)
    theirs = torch.nn.LSTM(4, 6, 2, bidirectional=bidirectional, batch_first=True)
    x = torch.randn(3, 5, 4)
    weights = torch.randn(3, 5, 12 if bidirectional else 6)
    expected, (h, c) = theirs(x)
    (expected * weights).sum().backward()

    module = LSTM((6, 6), bidirectional=bidirectional)
    params = from_torch({k: v.numpy() for k, v in theirs.state_dict().items()})

    def total(params):
        carry, outputs = module.apply({"params": params}, jnp.asarray(x.numpy()))
        return (outputs * jnp.asarray(weights.numpy())).sum(), (carry, outputs)

    grads, (carry, outputs) = jax.grad(total, has_aux=True)(params)
    np.testing.assert_allclose(outputs, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    for layer, mine in enumerate(carry):
        np.testing.assert_allclose(mine.c, c[layer].detach().numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(mine.h, h[layer].detach().numpy(), rtol=1e-5, atol=1e-6)
    for name, parameter in theirs.named_parameters():
        if not name.startswith("bias_hh"):  # the two biases have one gradient
            mine = to_torch(grads)[name]
            np.testing.assert_allclose(mine, parameter.grad.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.peers("torch")
def test_a_cell_equals_pytorchs():
    import torch

    torch.manual_seed(0)
    theirs = torch.nn.LSTMCell(4, 6)
    x, h, c = torch.randn(3, 4), torch.randn(3, 6), torch.randn(3, 6)
    expected = theirs(x, (h, c))
    params = from_torch({f"{k}_l0": v.numpy() for k, v in theirs.state_dict().items()})
    params = jax.tree.map(jnp.asarray, params["layer_0"])
    carry = LSTMCarry(jnp.asarray(c.numpy()), jnp.asarray(h.numpy()))
    end, hidden = LSTMCell(6).apply({"params": params}, carry, jnp.asarray(x.numpy()))
    for ours, other in zip((end.h, end.c, hidden), (*expected, expected[0]), strict=True):
        np.testing.assert_allclose(ours, other.detach().numpy(), rtol=1e-5, atol=1e-6)

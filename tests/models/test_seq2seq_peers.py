"""The encoder-decoder against PyTorch: packed LSTMs, attention row by row, its own autodiff."""

from functools import partial

import jax
import numpy as np
import pytest
from models.tiny_seq2seq import SMOOTHING, batch_of, loss_and_gradient, made

from jaxgen.nn.torch_weights import from_torch, to_torch

pytestmark = pytest.mark.peers("torch")


def stack(torch, layers, **options):
    """`torch.nn.LSTM` with the parameters of a stack of layers of one size."""
    layers = {name: layer for name, layer in layers.items() if name != "feed_kernel"}
    size, width = layers["layer_0"]["input_kernel"].shape
    ways = 2 if "layer_0_reverse" in layers else 1
    module = torch.nn.LSTM(
        size, width // 4, len(layers) // ways, bidirectional=ways == 2, batch_first=True
    )
    state = {name: torch.from_numpy(x) for name, x in to_torch(layers).items()}
    module.load_state_dict(state)
    return module


def layers_gradient(module):
    layers = from_torch({name: x.grad.numpy() for name, x in module.named_parameters()})
    for layer in layers.values():
        layer["bias"] /= 2  # PyTorch's two biases have each the whole gradient
    return layers


def attended(torch, score, weights, h, outputs):
    """tanh(W [context; h]) of one step of one row, whose source has no padding."""
    if score == "additive":
        inner = torch.tanh(h @ weights["query_kernel"] + outputs @ weights["key_kernel"])
        scores = inner @ weights["vector"]
    else:
        scores = outputs @ weights["key_kernel"] @ h
        scores = scores / len(h) ** 0.5 if score == "scaled" else scores
    context = torch.softmax(scores, 0) @ outputs
    kernel = torch.cat([weights["value_kernel"], weights["hidden_kernel"]])
    return torch.tanh(torch.cat([context, h]) @ kernel)


def bridged(torch, bridge, ends, layers):
    """The decoder's first state out of the encoder's last, each [layers * ways, B, H]."""
    starts = []
    for part, end in zip("hc", ends, strict=True):
        ways = len(end) // layers
        rows = [torch.cat(list(end[i * ways : (i + 1) * ways]), -1) for i in range(layers)]
        if bridge:
            named = [f"layer_{i}_{part}" for i in range(layers)]
            rows = [
                torch.tanh(row @ bridge[f"{name}_kernel"] + bridge[f"{name}_bias"])
                for row, name in zip(rows, named, strict=True)
            ]
        starts.append(torch.stack(rows))
    return tuple(starts)


def fed_rows(torch, score, rest, decoder, inputs, start, outputs):
    """The attentional vectors of one row, by a loop over steps and layers."""
    weights, layers = rest["attention"], decoder.num_layers
    h, c = ([state[layer] for layer in range(layers)] for state in start)
    vectors = [torch.zeros(rest["feed_kernel"].shape[0])]
    for x in inputs:
        for layer in range(layers):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            kernels = [getattr(decoder, f"{name}_l{layer}") for name in names]
            if layer == 0:  # one matrix of the token's vector and the last attentional one
                x = torch.cat([x, vectors[-1]])
                kernels[0] = torch.cat([kernels[0], rest["feed_kernel"].T], 1)
            state = (h[layer][None], c[layer][None])
            new = torch._VF.lstm_cell(x[None], state, *kernels)
            h[layer], c[layer] = (part[0] for part in new)
            x = h[layer]
        vectors.append(attended(torch, score, weights, x, outputs))
    return torch.stack(vectors[1:])


def torch_loss(torch, model, params, batch):
    """The loss and its gradient, as a tree like the parameters."""
    encoder, decoder = (stack(torch, params[side]) for side in ("encoder", "decoder"))
    rest = {name: x for name, x in params.items() if name not in ("encoder", "decoder")}
    if model.input_feeding:
        rest["feed_kernel"] = params["decoder"]["feed_kernel"]
    rest = jax.tree.map(lambda x: torch.from_numpy(np.array(x)).requires_grad_(), rest)
    sources, source_lengths, targets, target_lengths, _ = (np.array(x) for x in batch)
    one_hot = lambda tokens, size: torch.nn.functional.one_hot(tokens, size).float()  # noqa: E731
    tables = (rest.get("source_embedding"), rest.get("embedding"))
    sizes = (model.source_vocab_size, model.target_vocab_size)
    read, written = (
        one_hot(torch.from_numpy(x).long(), size) if table is None else table[x]
        for x, table, size in zip((sources, targets[:, :-1]), tables, sizes, strict=True)
    )
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        read, torch.from_numpy(source_lengths), batch_first=True, enforce_sorted=False
    )
    outputs, ends = encoder(packed)
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
    start = bridged(torch, rest.get("bridge"), ends, decoder.num_layers)
    nll = []
    for row, (n, m) in enumerate(zip(source_lengths, target_lengths - 1, strict=True)):
        real, first = outputs[row, :n], tuple(state[:, row].contiguous() for state in start)
        score, inputs = model.attention, written[row, :m]
        if model.input_feeding:
            hidden = fed_rows(torch, score, rest, decoder, inputs, first, real)
        else:
            hidden, _ = decoder(inputs, first)
            if score != "none":
                vectors = [attended(torch, score, rest["attention"], h, real) for h in hidden]
                hidden = torch.stack(vectors)
        kernel = rest["embedding"].T if model.tied else rest["output_kernel"]
        logits = hidden @ kernel + rest["output_bias"]
        target = torch.from_numpy(targets[row, 1 : m + 1]).long()
        loss = torch.nn.functional.cross_entropy(
            logits, target, reduction="sum", label_smoothing=SMOOTHING
        )
        nll.append(loss)
    loss = sum(nll) / int((target_lengths - 1).sum())
    loss.backward()
    gradient = {
        **jax.tree.map(lambda x: x.grad.numpy(), rest),
        "encoder": layers_gradient(encoder),
        "decoder": layers_gradient(decoder),
    }
    if model.input_feeding:
        gradient["decoder"]["feed_kernel"] = gradient.pop("feed_kernel")
    return loss.item(), gradient


@pytest.mark.parametrize(
    "name",
    [
        *("additive", "fed_additive"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "scaled")),
    ],
)
def test_loss_and_gradient_equal_pytorch(name):
    import torch

    model, params = made(name, num_layers=2)
    batch = batch_of()
    loss, _, gradient = loss_and_gradient(model, params, batch)
    expected, expected_gradient = torch_loss(torch, model, params, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    check = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(check, gradient, expected_gradient)

"""Oracles beside SeqGAN's equations in NumPy, and beside all the texts that a small one has."""

from itertools import product
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation import oracle

SEQGAN = Path(__file__).parents[3] / "shared/data/seqgan-oracle/target_params.npz"
"""SeqGAN's own oracle, beside the repository where there is a copy."""
SHAPES = {
    "embedding": (5, 2),
    **{f"W{gate}": (2, 3) for gate in ("i", "f", "og", "c")},
    **{f"U{gate}": (3, 3) for gate in ("i", "f", "og", "c")},
    **{f"b{gate}": (3,) for gate in ("i", "f", "og", "c")},
    "Wo": (3, 5),
    "bo": (5,),
}


def draw_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def save(folder: Path, arrays: dict[str, Any]) -> Path:
    path = folder / "oracle.npz"
    np.savez(path, **arrays)
    return path


def logprobs_by_definition(p: dict[str, np.ndarray], text: Any) -> list[float]:
    """Target LSTM of Yu et al. (2017), as in their program: one gate after the other."""

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    p = {name: x.astype(np.float64) for name, x in p.items()}
    h, c = np.zeros(3), np.zeros(3)
    found, before = [], 0
    for token in text:
        x = p["embedding"][before]
        of = {gate: x @ p[f"W{gate}"] + h @ p[f"U{gate}"] + p[f"b{gate}"] for gate in "ifc"}
        output = sigmoid(x @ p["Wog"] + h @ p["Uog"] + p["bog"])
        c = sigmoid(of["f"]) * c + sigmoid(of["i"]) * np.tanh(of["c"])
        h = output * np.tanh(c)
        logits = h @ p["Wo"] + p["bo"]
        found.append(logits[token] - np.log(np.exp(logits).sum()))
        before = token
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> oracle.Oracle:
    return oracle.load(save(tmp_path_factory.mktemp("oracle"), draw_arrays()), length=3)


def test_scores_are_those_of_the_equations(small: oracle.Oracle) -> None:
    texts = np.array(list(product(range(5), repeat=3)), np.int32)
    expected = np.array([logprobs_by_definition(draw_arrays(), text) for text in texts])
    np.testing.assert_allclose(small.logprobs(texts), expected, rtol=1e-5, atol=1e-5)
    assert np.exp(expected.sum(axis=1)).sum() == pytest.approx(1)
    assert small.nll(texts) == pytest.approx(-expected.mean(), rel=1e-6)
    assert small.nll(texts[:, :2]) == pytest.approx(-expected[:, :2].mean(), rel=1e-6)


def test_samples_are_as_frequent_as_they_are_likely(small: oracle.Oracle) -> None:
    """Pearson's statistic of 125 texts: below 200 but for 2 in 100,000 keys."""
    count = 2000
    samples = small.sample(jax.random.key(0), count)
    assert samples.shape == (count, 3)
    assert samples.dtype == np.int32
    texts = np.array(list(product(range(5), repeat=3)), np.int32)
    expected = count * np.exp(np.asarray(small.logprobs(texts), np.float64).sum(axis=1))
    found = np.bincount(samples @ [25, 5, 1], minlength=125)
    assert ((found - expected) ** 2 / expected).sum() < 200


def test_a_text_depends_on_its_own_key(
    small: oracle.Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And scores do not depend on which texts are scored together."""
    whole = small.sample(3, 7)
    assert (whole != small.sample(4, 7)).any()
    nll = small.nll(whole)
    monkeypatch.setattr(oracle, "_ROWS", 3)
    np.testing.assert_array_equal(small.sample(3, 7), whole)
    np.testing.assert_array_equal(small.sample(jax.random.key(3), 7), whole)
    assert small.nll(whole) == pytest.approx(nll, rel=1e-6)


def test_random_oracles() -> None:
    """Parameters of N(0, 1), the same for a seed; the sizes are those that are asked for."""
    first, again, other = (oracle.random(seed, 6, 4, 3, length=2) for seed in (1, 1, 2))
    same = jax.tree.map(np.array_equal, first.params, again.params)
    assert all(same)
    assert not np.array_equal(first.params.output_kernel, other.params.output_kernel)
    assert first.vocab_size == 6
    assert first.params.token_gates.shape == (6, 16)
    assert first.sample(0, 3).shape == (3, 2)
    # 160,000 numbers: their mean and variance are within 6 standard errors of 0 and 1.
    large = np.asarray(oracle.random(0).params.output_kernel)
    assert large.shape == (32, 5000)
    assert abs(large.mean()) < 6 / 400
    assert abs(large.var() - 1) < 6 * np.sqrt(2) / 400


@pytest.mark.slow
@pytest.mark.skipif(not SEQGAN.is_file(), reason="needs SeqGAN's oracle")
def test_the_oracle_of_seqgan() -> None:
    """Its own samples score 5.750 nats a token, and random tokens 11.43.

    10,000 samples of one key differ by 0.007 (standard deviation of 12 keys), 50,000 by 0.003.
    """
    target = oracle.load(SEQGAN)
    samples = target.sample(jax.random.key(0), 50_000)
    assert target.nll(samples) == pytest.approx(5.750, abs=0.01)
    tokens = np.random.default_rng(0).integers(5000, size=(1000, 20))
    assert target.nll(tokens) == pytest.approx(11.43, abs=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"Wi": np.zeros((3, 2)), "bo": np.zeros(4)},
            r"5 tokens, embedding 2 and 3 units: `Wi` must be \[2, 3\], got \[3, 2\]; "
            r"`bo` must be \[5\], got \[4\]; see",
        ),
        (
            {"embedding": np.zeros((4, 2))},
            r"units: `embedding` must be \[5, 2\], got \[4, 2\]; see",
        ),
        ({"Uc": None}, r"units: `Uc` \[3, 3\] is missing; see"),
        ({"bf": np.array([0, np.nan, 1])}, "units: `bf` must hold finite numbers; see"),
        ({"Wo": np.zeros((3, 5), str)}, "units: `Wo` must hold finite numbers; see"),
        (dict.fromkeys(SHAPES), r"`embedding` \[V, E\] is missing.*`bo` \[V\] is missing"),
    ],
)
def test_files_that_hold_no_oracle(tmp_path: Path, change: dict, message: str) -> None:
    arrays = {name: x for name, x in (draw_arrays() | change).items() if x is not None}
    with pytest.raises(UserError, match=message):
        oracle.load(save(tmp_path, arrays))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, write in {
        "missing.npz": lambda path: None,
        "text.npz": lambda path: path.write_text("not an archive"),
        "cut.npz": lambda path: path.write_bytes(save(tmp_path, draw_arrays()).read_bytes()[:300]),
        "array.npy": lambda path: np.save(path, np.zeros(3)),
        "pickle.npz": lambda path: np.savez(path, Wi=np.array([{}], object)),
    }.items():
        write(tmp_path / name)
        with pytest.raises(UserError, match=f"an oracle is an .npz file .*{name} cannot be read"):
            oracle.load(tmp_path / name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda o: o.nll(np.array([[0, 5]])), r"of 5 tokens scores tokens in \[0, 5\), got 5"),
        (lambda o: o.nll(np.array([[0, -1]])), "got -1; the generator must have"),
        (lambda o: o.nll(np.zeros((2, 3))), r"whole numbers \[N, T\].*got float64\[2, 3\]"),
        (lambda o: o.nll(np.zeros((0, 3), int)), r"got int64\[0, 3\]"),
        (lambda o: o.sample(0, 0), "`n` must be at least 1, got 0"),
        (lambda o: o.sample("key", 2), "`key` must be a seed, a jax key"),
        (lambda o: oracle.random(-1), "seed of an oracle must be at least 0, got -1"),
        (lambda o: oracle.random(0, vocab_size=0), "`vocab_size` must be at least 1, got 0"),
    ],
)
def test_bad_input(small: oracle.Oracle, call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(small)

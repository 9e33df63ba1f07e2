"""What a training takes of memory is known before it is taken."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxgen.errors import UserError
from jaxgen.training import memory
from jaxgen.training.memory import available_bytes, check_memory, tree_bytes


def test_bytes_of_shapes_are_those_of_the_arrays() -> None:
    def tree() -> dict[str, jax.Array]:
        return {"a": jnp.ones((3, 5)), "b": jnp.ones(7, jnp.bfloat16), "key": jax.random.key(0)}

    assert tree_bytes(jax.eval_shape(tree)) == tree_bytes(tree()) == 4 * 15 + 2 * 7
    huge = jax.eval_shape(lambda: jnp.zeros((300_000, 1_200_000)))
    assert tree_bytes(huge) == 4 * 300_000 * 1_200_000


def test_what_does_not_fit_is_refused() -> None:
    check_memory(2**30, 2**30)
    with pytest.raises(UserError, match=r"take 1\.5 GiB of memory, and there are 512 MiB; lower"):
        check_memory(3 * 2**29, 2**29)
    with pytest.raises(UserError, match=r"would take 1\.1e\+03 TiB of memory, and there are"):
        check_memory(1100 * 2**40)


def test_the_limit_is_the_smallest_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  3000 kB\nSwapFree: 5 kB\n")
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("2048\n")
    assert memory._meminfo(tmp_path / "meminfo") == 3005 * 1024
    assert memory._meminfo(tmp_path / "no") is None
    assert memory._integer(tmp_path / "max") is None
    assert memory._integer(tmp_path / "limit") == 2048
    monkeypatch.setattr(memory, "_meminfo", lambda path: 3000)
    monkeypatch.setattr(memory, "_integer", lambda path: 2000)
    assert available_bytes() == 2000
    monkeypatch.setattr(memory, "_meminfo", lambda path: None)
    monkeypatch.setattr(memory, "_integer", lambda path: None)
    assert available_bytes() is None
    check_memory(2**80)

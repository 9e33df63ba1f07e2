"""Bad places of a process, and settings that do not divide over processes: one clear error each."""

from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from jaxgen.config import TrainingConfig
from jaxgen.config.distributed import Distributed
from jaxgen.errors import UserError
from jaxgen.training.devices import candidate_devices, devices_wanted
from jaxgen.training.processes import JoinedProcesses, ProcessLostError, joined

Fail = Callable[..., str]
AT = ("--distributed.coordinator", "localhost:12345")
N, ID = "--distributed.num-processes", "--distributed.process-id"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--distributed.coordinator", "host"), "must be auto or host:port of process 0, got host"),
        (("--distributed.coordinator", "host:"), "for example host:12345"),
        (("--distributed.coordinator", ":80"), "for example localhost:12345"),
        (("--distributed.coordinator", "host:99999"), "must be auto or host:port"),
        (AT, "localhost:12345 needs `distributed.num_processes` too"),
        ((*AT, N, 2), "localhost:12345 needs `distributed.process_id` too"),
        ((N, 2), "`distributed.num_processes` needs `distributed.coordinator`"),
        ((ID, 0), "`distributed.process_id` needs `distributed.coordinator`"),
        ((*AT, N, 0, ID, 0), "`distributed.num_processes` must be at least 1, got 0"),
        ((*AT, N, 2, ID, 2), "`distributed.process_id` must be from 0 to 1 of 2 processes, got"),
        (
            (*AT, N, 2, ID, -1),
            "from 0 to 1 of 2 processes, got -1; number the",
        ),
        (
            (*AT, N, 2, ID, 1, "--distributed.connect-seconds", 0),
            "`distributed.connect_seconds` must be from 1 to 1000000 seconds, got 0.0",
        ),
    ],
)
def test_bad_places(options: tuple[object, ...], message: str, config: Path, fail: Fail) -> None:
    assert message in fail("train", config, *options)
    assert not (config.parent / "runs").exists()


def test_place_is_no_setting(config: Path, fail: Fail) -> None:
    config.write_text(config.read_text() + "\n[distributed]\ncoordinator = 'auto'\n")
    assert "unknown key `distributed`" in fail("train", config)


def test_batches_and_devices_divide_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "device_count", lambda: 6)
    monkeypatch.setattr(jax, "local_device_count", lambda: 2)
    message = "`training.batch_size` must be a multiple of the 3 processes, got 16; 15 or 18 would"
    with pytest.raises(UserError, match=message):
        candidate_devices("auto", 16)
    with pytest.raises(UserError, match="all 3 processes and must be a multiple of that, got 4; 3"):
        candidate_devices(4, 12)
    with pytest.raises(UserError, match="got 9 and 6; 6 or 12 would do"):
        candidate_devices(6, 9)
    assert candidate_devices("auto", 9) == (3,)
    assert candidate_devices("auto", 12) == (6,)


def test_a_resumed_run_keeps_its_devices_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig(batch_size=12, devices=2)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert devices_wanted(config, {}) == 2
    assert devices_wanted(config, {"devices": 2}) == 2
    assert devices_wanted(config, {"devices": 2, "processes": 2}) == 2
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert devices_wanted(config, {"devices": 2, "processes": 2}) == "auto"
    assert devices_wanted(config, {"devices": 4, "processes": 2}) == 4


class Store:
    """The coordinator's key-value store, for one thread."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        self.values[key] = value

    def key_value_delete(self, key: str) -> None:
        self.values = {k: v for k, v in self.values.items() if not k.startswith(key)}

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        return [(k, v) for k, v in self.values.items() if k.startswith(key)]

    def blocking_key_value_get(self, key: str, milliseconds: int) -> str:
        if key not in self.values:
            raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")
        return self.values[key]


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[JoinedProcesses, JoinedProcesses]:
    """Two processes in this one, which share a store."""
    store, made = Store(), []
    for index in (0, 1):
        place = type("State", (), {"process_id": index, "num_processes": 2, "client": store})
        monkeypatch.setattr("jaxgen.training.processes._state", lambda place=place: place)
        made.append(JoinedProcesses(Distributed(timeout_seconds=5)))
    return made[0], made[1]


def test_what_process_0_finds_goes_to_the_others(
    pair: tuple[JoinedProcesses, JoinedProcesses],
) -> None:
    first, second = pair
    calls = []
    for process in pair:
        found = process.from_first("x", lambda: calls.append(1) or {"nll": float("nan"), "n": (1,)})
        assert found["n"] == [1]
        assert found["nll"] != found["nll"]
    assert calls == [1]
    for process in pair:
        process.check_same({"`a`": 1})
    first.check_same({"the version of jax": "0.10.2"})
    with pytest.raises(UserError, match=r"has the version of jax '0\.9', and process 0 has"):
        second.check_same({"the version of jax": "0.9"})
    with pytest.raises(ProcessLostError, match="process 1 waited 5 s for process 0 at y; it hangs"):
        second.from_first("y", lambda: None)


def test_any_process_can_be_interrupted(pair: tuple[JoinedProcesses, JoinedProcesses]) -> None:
    hit: list[int] = []
    flags = [p.any_interrupted(lambda i=i: i in hit) for i, p in enumerate(pair)]
    assert [flag() for flag in flags] == [False, False]
    hit.append(1)
    assert flags[1]()
    assert flags[0]()


def test_a_silent_process_is_named(pair: tuple[JoinedProcesses, JoinedProcesses]) -> None:
    first, _ = pair
    assert first._silence([("jaxgen/alive/1", "7")]) is None
    first._heard["jaxgen/alive/1"] = ("7", first._heard["jaxgen/alive/1"][1] - 6)
    assert first._silence([("jaxgen/alive/1", "8")]) is None
    first._heard["jaxgen/alive/1"] = ("8", first._heard["jaxgen/alive/1"][1] - 6)
    error, code = first._silence([("jaxgen/alive/1", "8")]) or ("", 0)
    assert error.startswith("process 1 has been silent for 5 s")
    assert code == 75


def test_alone_nothing_is_joined() -> None:
    with joined(None) as processes:
        assert processes.count == 1
        assert processes.from_first("x", lambda: (1, 2)) == (1, 2)

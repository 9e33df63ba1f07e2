"""Train one model by the workers of a Ray cluster; a worker that dies is replaced.

    pip install "jaxgen[ray]"
    python examples/ray_train.py configs/demo.toml --out /shared/runs/demo --workers 2

On GPUs and TPUs (--on gpu, --on tpu) Ray's `JaxTrainer` joins the processes. On CPUs its set-up
returns early, so a plain `DataParallelTrainer` starts the workers, and each says to `jaxgen.train`
where it stands. All workers see --out: storage that the machines share.
"""

import argparse
import os
import socket
from pathlib import Path

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


def free_address():
    """This machine's address, with a port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{server.getsockname()[1]}"


def worker(task):
    """What each worker does, again after every failure."""
    import jaxgen
    from jaxgen.training.runs import Run

    context, out = ray.train.get_context(), Path(task["out"])
    rank = context.get_world_rank()

    # One worker decides for all: where they meet, and whether there is something to go on with.
    start = None
    if rank == 0:
        begun = Run.exists(out) and Run.open(out).checkpoint("last") is not None
        start = {"address": free_address(), "resume": begun}
    start = broadcast_from_rank_zero(start)
    place = None  # JaxTrainer has joined the processes already
    if task["on"] == "cpu":
        place = jaxgen.Distributed(start["address"], context.get_world_size(), rank)
    result = jaxgen.train(task["config"], out=out, resume=start["resume"], distributed=place)
    figures = {"steps": result.steps, "best": result.best, "reason": result.reason}
    ray.train.report(figures)  # all workers report, and Ray keeps those of the first


def main(config, out, workers=2, on="cpu", topology=None, accelerator_type=None):
    """Train on the cluster, and return what the first worker reports."""
    task = {"config": str(Path(config).absolute()), "out": str(Path(out).absolute()), "on": on}
    run_config = RunConfig(
        name=Path(out).name,
        storage_path=str(Path(out).absolute().parent / "ray"),
        failure_config=FailureConfig(max_failures=3),
    )
    if on == "cpu":
        # A JAX process is one device of a CPU here; start as many as there should be devices.
        runtime = {"env_vars": {"JAX_PLATFORMS": "cpu"}}
        ray.init(runtime_env=runtime, ignore_reinit_error=True)
        kind, scaling = DataParallelTrainer, ScalingConfig(num_workers=workers)
    else:
        from ray.train.v2.jax import JaxTrainer

        ray.init(ignore_reinit_error=True)
        slices = {"topology": topology, "accelerator_type": accelerator_type} if on == "tpu" else {}
        kind = JaxTrainer
        scaling = ScalingConfig(
            num_workers=workers, use_gpu=on == "gpu", use_tpu=on == "tpu", **slices
        )
    trainer = kind(worker, train_loop_config=task, scaling_config=scaling, run_config=run_config)
    return trainer.fit().metrics


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--out", required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--on", choices=("cpu", "gpu", "tpu"), default="cpu")
    parser.add_argument("--topology", help="of a TPU slice, such as 4x4")
    parser.add_argument("--accelerator-type", help="of a TPU slice, such as TPU-V6E")
    print(main(**vars(parser.parse_args())))

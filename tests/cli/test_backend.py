"""`jaxgen info --backend` says what runs the recurrence, and why, as text and as JSON."""

import json

from jaxgen.cli import ERROR, main
from jaxgen.ops.backends import compiling_for


def test_the_choice_here_and_its_reason(capsys):
    assert main(["info", "--backend", "--hidden-size", "100", "--batch-size", "3"]) == 0
    shown = capsys.readouterr().out
    assert "B=3 T=64 H=100 float32 lstm" in shown
    assert "scan: the only backend for cpu" in shown
    assert "cuDNN needs an NVIDIA GPU, and the platform is cpu" in shown


def test_the_choice_on_a_gpu_as_json(capsys):
    with compiling_for("cuda", "NVIDIA H100"):
        assert main(["info", "--backend", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["platform"] == "cuda (NVIDIA H100)"
    assert facts["training"].startswith("scan: unrolled")
    assert facts["prompts"].startswith("scan: ")
    assert facts["can run it"]["pallas"].endswith("the platform is cuda")


def test_bad_shapes_and_missing_runs_are_errors(capsys):
    for arguments, message in (
        (["--backend", "--hidden-size", "0"], "hidden_size"),
        ([], "name one, or use --backend"),
        (["nowhere", "--hidden-size", "8"], "add --backend"),
    ):
        assert main(["info", *arguments]) == ERROR
        assert message in capsys.readouterr().err

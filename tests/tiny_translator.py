"""An encoder-decoder that was never trained, as an export, and the pairs that it knows."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxgen.config import Seq2SeqExperiment
from jaxgen.exports import write_export
from jaxgen.tasks.seq2seq import fit_files, init_shapes, open_data

PAIRS = [(f"{a} {b}", f"{b} {a}") for a in "abcdef" for b in "uvwxyz"]


def write_export_of(folder: Path, kind: str = "word", **model: Any) -> Path:
    """Write `pairs.tsv` into the folder, and the export `export` that names it; its directory."""
    path = folder / "pairs.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS))
    experiment = Seq2SeqExperiment(
        data={"files": (path,), "source_column": "0", "target_column": "1", "source_length": 6},
        tokenizer={"kind": kind},
        model={"hidden_size": 4, "embedding_size": 3, **model},
        translation={"beam_size": 2},
    )
    files = fit_files(experiment, open_data(experiment), None)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: random.normal(size=x.shape).astype(np.float32), init_shapes(experiment, files)
    )
    settings = experiment.model_dump(mode="json", exclude_defaults=True)
    config = {"model_type": "jaxgen_seq2seq", "experiment": {"task": "seq2seq", **settings}}
    write_export(folder / "export", params, files, config, "# {name}\n")
    return folder / "export"

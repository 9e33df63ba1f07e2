"""Find settings of a language model by trials, without the command line.

    python examples/tune.py

What the trials have in common is an experiment, what they differ in a space. A trial is given up at
an evaluation where it is worse than the median of the others; the best seed of the best trial
becomes an ordinary run. The same call again goes on with the study. It needs Optuna:
`pip install 'jaxgen[tune]'`.
"""

import tempfile
from pathlib import Path

import jaxgen
from jaxgen.config import LanguageModelExperiment

SPACE = {
    "optimizer": {
        "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},  # a range, equal by factors
        "name": ["adam", "rmsprop"],  # choices
    },
    "model": {"dropout": {"low": 0.0, "high": 0.4, "step": 0.1}},
}


def main(out=None, trials=12, minutes=5, steps=200, hidden_size=64):
    """Tune, print the trials and a text of the best model, and return the result."""
    out = Path(out or tempfile.mkdtemp()) / "best"
    experiment = LanguageModelExperiment().updated(
        model={"hidden_size": hidden_size},
        training={"max_steps": steps, "evaluate_every": steps // 4, "batch_size": 32},
        optimizer={"clip_norm": 1.0},
    )
    tuning = jaxgen.tune(experiment, SPACE, out=out, trials=trials, minutes=minutes, seeds=2)

    show = tuning.objective.show  # nats as the unit that people read, here bits a character
    for trial in sorted(tuning.trials, key=lambda trial: trial.value or 0.0):
        figure = "-" if trial.value is None else f"{show(trial.value):.3f}"
        print(f"trial {trial.number:2d}  {figure}  {trial.ended:8s}  {trial.settings}")
    print(f"\n{tuning.reason}; the best settings are {tuning.best.settings}")
    print(f"the study is drawn in {tuning.folder / 'study.png'}")

    # An ordinary run: it can be trained on, evaluated, exported; here it writes.
    model = jaxgen.load(tuning.out)
    print(model.generate("The ", max_new_tokens=100, temperature=0.5, key=0))
    return tuning


if __name__ == "__main__":
    main()

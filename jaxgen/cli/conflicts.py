"""Options of `jaxgen generate` that do not go together: refused, with the reason."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jaxgen.errors import UserError

if TYPE_CHECKING:
    from jaxgen.cli.generate import Generate

SHAPES = (
    *("top_k", "min_p", "typical_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)
"""Settings that shape the choice of a token, and are of no use to a search."""

ONE_TEXT = (
    "--stream and --interactive write one text at a time: give one prompt, one --temperature and "
    "one --top-p, at most one --label and one --guidance, and no --n"
)


def check_options_together(command: "Generate") -> None:
    """UserError for the first option that is out of its range, or useless beside another."""
    for message in _conflicts(command):
        raise UserError(message)


def _conflicts(command: "Generate") -> Iterator[str]:
    if command.seed is not None and not -(2**31) <= command.seed < 2**32:
        rule = f"in [{-(2**31)}, {2**32})"
        yield f"--seed must be {rule}, got {command.seed}; others would repeat texts"
    prompts = given(command, "prompt", "prompt_file")
    if len(prompts) > 1:
        yield "give --prompt or --prompt-file, not both"
    if command.escapes and not given(command, "prompt", "stop"):
        yield "--escapes is for --prompt and --stop: leave it out, or give one of them"
    if command.force and command.out is None:
        yield "--force is for --out: leave it out, or give --out"
    if command.guidance and not command.label:
        yield "--guidance strengthens a label: leave it out, or give --label"
    if command.stream or command.interactive:
        yield from _of_streams(command, "--interactive" if command.interactive else "--stream")
    if command.interactive and command.stream:
        yield "--interactive streams its texts anyway: leave out --stream"
    if command.interactive and prompts:
        yield f"--interactive reads prompts from the terminal: leave out {prompts[0]}"
    if command.beam_size is not None:
        yield from _of_beams(command, command.beam_size)
    elif not any(command.temperature):
        useless = given(command, "seed", "top_p", "top_k", "min_p", "n")
        if useless and command.n >= 1:
            yield (
                "--temperature 0 always takes the likeliest token, so that there is one text: "
                f"leave out {', '.join(useless)}"
            )


def _of_streams(command: "Generate", mode: str) -> Iterator[str]:
    counts = (command.prompt, command.temperature, command.top_p, command.label, command.guidance)
    if command.n != 1 or any(len(values) > 1 for values in counts):
        yield ONE_TEXT
    if command.beam_size is not None:
        yield f"--beam-size finds whole texts: leave out {mode}"
    for name in given(command, "report", "json", "out"):
        yield f"{name} needs whole texts: leave out {mode}"


def _of_beams(command: "Generate", size: int) -> Iterator[str]:
    if random := given(command, *SHAPES, "temperature", "top_p", "seed"):
        yield (
            "--beam-size ranks texts by the model's own probabilities, without chance: "
            f"leave out {', '.join(random)}"
        )
    if not 1 <= command.n <= size:
        yield f"--n must be 1 to --beam-size, {size}, got {command.n}"


def given(command: "Generate", *names: str) -> list[str]:
    """Those of some options that are not at their defaults, as they are written."""
    changed = [name for name in names if getattr(command, name) != getattr(type(command), name)]
    return [f"--{name.replace('_', '-')}" for name in changed]

"""`input` of a request: one text, or a list of them."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def texts_field(most: int, what: str, examples: list[Any]) -> Any:
    """The type of a field that takes a text, or a list of 1 to `most` texts.

    Args:
        most: texts of a request.
        what: its description.
        examples: for the OpenAPI document.
    """

    def check(value: Any) -> Any:
        several = value if isinstance(value, list) else [value]
        if all(isinstance(text, str) for text in several) and 1 <= len(several) <= most:
            return value
        wrong = [type(text).__name__ for text in several if not isinstance(text, str)]
        got = f"{len(several)} texts" if not wrong else f"a value of type {wrong[0]}"
        raise ValueError(f"`input` must be a text, or a list of 1 to {most} texts, got {got}")

    several = Annotated[list[str], Field(min_length=1, max_length=most)]
    return Annotated[
        str | several, BeforeValidator(check), Field(description=what, examples=examples)
    ]


def as_list(texts: str | list[str]) -> list[str]:
    """The texts of a request, one or several."""
    return [texts] if isinstance(texts, str) else texts

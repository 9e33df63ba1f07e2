"""What every section of settings is: frozen, typed, documented, checked when it is read."""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Fraction = Annotated[float, Field(ge=0.0, lt=0.5)]
Seed = Annotated[int, Field(ge=-(2**31), lt=2**32)]
"""JAX keeps 32 bits of a seed: a wider one would silently be another."""


class Config(BaseModel):
    """Base of every section: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    changeable_on_resume: ClassVar[frozenset[str]] = frozenset()
    """Settings that a resumed run may set anew; with any other it would be another run."""

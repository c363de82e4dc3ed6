"""What all parts of a recipe are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Coefficient = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
LearningRate = Annotated[float, Field(gt=0.0, lt=1.0)]


class Section(BaseModel):
    """A part of a recipe: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

"""What every part of a result is: an immutable pydantic model that knows its keys."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0 + 1e-6)]
"""0 to 1; sums of float32 shares may end a hair above one."""


class Part(BaseModel):
    """A part of a result: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="strings"
    )

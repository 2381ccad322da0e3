"""The base of every table of a profile, and the types that tables share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
AutoPositive = Literal["auto"] | Positive


class Section(BaseModel):
    """A table of a profile. Unknown keys are errors. pydantic's messages never contain the rejected value."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)

"""What every value that stages exchange is."""

from pydantic import BaseModel, ConfigDict

__all__ = ["Value"]


class Value(BaseModel):
    """A frozen value that refuses unknown fields; what is written as JSON is read again as it was.

    JSON has no number for infinity, and pydantic's own ``null`` in its place is read as none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

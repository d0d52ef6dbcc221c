"""What operators' pages answer with."""

from pydantic import BaseModel, ConfigDict


class Report(BaseModel):
    """A part of an answer. Its own validator is built when it is used, and no start pays for it."""

    model_config = ConfigDict(defer_build=True)

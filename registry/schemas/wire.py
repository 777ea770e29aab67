"""The base classes of all schemas, and the types that they share."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from registry.files.beside import CARD_BYTES
from registry.files.folders import PATH_LENGTH
from registry.files.names import HEX256, MODEL, WEIGHTS_DIGEST

MESSAGE_BYTES = 65536


def most_bytes(most: int) -> AfterValidator:
    """Return the rule that a text has at most so many bytes in UTF-8."""

    def check(text: str) -> str:
        if (size := len(text.encode("utf-8", "surrogatepass"))) > most:
            raise ValueError(f"it has {size} bytes, and {most} are the most")
        return text

    return AfterValidator(check)


Hex256 = Annotated[str, StringConstraints(pattern=rf"^{HEX256}$")]
WeightsDigest = Annotated[str, StringConstraints(pattern=rf"^{WEIGHTS_DIGEST}$")]
Decimal = Annotated[str, StringConstraints(pattern=r"^-?[0-9]{1,20}(\.[0-9]{1,20})?$")]
ModelName = Annotated[str, StringConstraints(pattern=rf"^{MODEL}$", max_length=193)]
FilePath = Annotated[str, Field(max_length=PATH_LENGTH)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[^\x00]*$")]
Message = Annotated[Text, StringConstraints(max_length=MESSAGE_BYTES), most_bytes(MESSAGE_BYTES)]
Card = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=CARD_BYTES), most_bytes(CARD_BYTES)]
License = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.+-]{0,63}$")]


class Wire(BaseModel):
    """One JSON object; unknown fields in a request are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True)


class Answer(Wire):
    """One JSON object that a server sends; a client ignores fields it does not know."""

    model_config = ConfigDict(extra="ignore", frozen=True, from_attributes=True)


class Problem(Answer):
    """RFC 9457 problem details; `type` is `urn:breadcrumb:problem:<slug of the error class>`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = Field(description="the request id, as in the server's log")
    field: str | None = Field(None, description="the field, tensor or entry at fault")
    job: str | None = Field(None, description="the job to wait for, before the same request is sent again")

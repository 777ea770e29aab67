"""Parameters that several routes share: models, namespaces, users, channels, patches, refs, words.

The functions are async because FastAPI would send any other dependency to a thread and back.
"""

from typing import Annotated

from fastapi import Depends, Path
from pydantic import StringConstraints

from registry.files.names import NAME

REF = r"^[A-Za-z0-9][A-Za-z0-9._:+-]{0,99}$"
PATCH = r"^[0-9]{1,9}(\.[0-9]{1,9})?$"
PatchNumbers = tuple[int, int | None]  # of a patch and of its revision; None for the newest


async def get_model_name(
    namespace: Annotated[str, Path(pattern=rf"^{NAME}$")], name: Annotated[str, Path(pattern=rf"^{NAME}$")]
) -> str:
    """Return `namespace/name` from the path."""
    return f"{namespace}/{name}"


def parse_patch(text: str) -> PatchNumbers:
    """Return the numbers of a patch and its revision from `12` or `12.2`."""
    number, _, revision = text.partition(".")
    return int(number), int(revision) if revision else None


async def get_patch(number: Annotated[str, Path(pattern=PATCH)]) -> PatchNumbers:
    """Return the patch that a path names."""
    return parse_patch(number)


async def get_first(first: Annotated[str, Path(pattern=PATCH)]) -> PatchNumbers:
    """Return the first patch of a pair that a path names."""
    return parse_patch(first)


async def get_second(second: Annotated[str, Path(pattern=PATCH)]) -> PatchNumbers:
    """Return the second patch of a pair that a path names."""
    return parse_patch(second)


ModelName = Annotated[str, Depends(get_model_name)]
NamespaceName = Annotated[str, Path(pattern=rf"^{NAME}$", alias="namespace")]
UserName = Annotated[str, Path(pattern=rf"^{NAME}$", alias="user")]
ChannelName = Annotated[str, Path(pattern=r"^[a-z0-9-]{1,32}$", alias="channel")]
PatchRef = Annotated[PatchNumbers, Depends(get_patch)]
FirstPatch = Annotated[PatchNumbers, Depends(get_first)]
SecondPatch = Annotated[PatchNumbers, Depends(get_second)]
FilePath = Annotated[str, Path(pattern=r"^[ -~]{1,255}$")]
Word = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00]*$")]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]

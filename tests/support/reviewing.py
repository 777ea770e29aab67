"""Reviews in tests: proposing, approving and accepting patches of the community."""

from typing import Any

from tests.support.community import Community


def propose(crew: Community, *numbers: int) -> None:
    for number in numbers:
        crew.post("bob", f"/patches/{number}/propose")


def approve(crew: Community, user: str, number: int = 1, revision: int = 1, status: int = 201) -> Any:
    return crew.post(user, f"/patches/{number}/reviews", status, verdict="approve", revision=revision)


def accept(crew: Community, number: int = 1, status: int = 200, **body: Any) -> Any:
    return crew.post("mary", f"/patches/{number}/accept", status, **{"message": "", **body})


def missing(crew: Community, number: int = 1) -> list[str]:
    found: list[str] = crew.get(f"/patches/{number}/discussion")["missing"]
    return found

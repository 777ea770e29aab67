import httpx2
import pytest
from huggingface_hub import errors as hub

from client.machine.hub_errors import from_hub, hub_errors
from registry import errors

URL = "https://s3/x?X-Amz-Signature=secret"
ANSWER = httpx2.Response(404, request=httpx2.Request("PUT", URL))


@pytest.mark.parametrize(
    ("status", "meant"),
    [
        (400, errors.InvalidRequest),
        (401, errors.Unauthenticated),
        (402, errors.Forbidden),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.WrongState),
        (412, errors.WrongState),
        (413, errors.TooLarge),
        (429, errors.TooMany),
        (500, errors.Unavailable),
    ],
)
def test_what_the_hub_refuses_is_told_without_the_address_it_was_at(
    status: int, meant: type[errors.BreadcrumbError]
) -> None:
    answer = httpx2.Response(status, request=httpx2.Request("PUT", URL))
    why = hub.HfHubHTTPError(f"{status} for {URL}", response=answer, server_message="No\x1b[1m.")
    sent = RuntimeError("Error while uploading")
    sent.__cause__ = why
    for raised in (why, sent):
        found = from_hub(raised, "org/name")
        assert type(found) is meant
        assert "No" in found.message
        assert "secret" not in found.message and "\x1b" not in found.message


@pytest.mark.parametrize(
    ("raised", "meant", "words"),
    [
        (hub.GatedRepoError("x", response=ANSWER), errors.Forbidden, "accept its terms"),
        (hub.RepositoryNotFoundError("x", response=ANSWER), errors.NotFound, "no org/name"),
        (hub.RevisionNotFoundError("x", response=ANSWER), errors.NotFound, "no such revision"),
        (hub.HFValidationError("x"), errors.InvalidRequest, "like org/name"),
        (hub.OfflineModeIsEnabled("x"), errors.Unavailable, "HF_HUB_OFFLINE"),
        (httpx2.ConnectError("refused"), errors.Unavailable, "does not answer"),
        (KeyError("branches"), errors.Unavailable, "was not understood"),
        (RuntimeError(), errors.Unavailable, "RuntimeError"),
        (OSError("disk\nsecond line"), errors.Unavailable, "disk."),
    ],
)
def test_whatever_the_hubs_library_raises_is_one_sentence(
    raised: Exception, meant: type[errors.BreadcrumbError], words: str
) -> None:
    with pytest.raises(meant, match=words) as found, hub_errors("org/name"):
        raise raised
    assert type(found.value) is meant
    assert found.value.message.count("\n") == 0 and found.value.message.endswith(".")


def test_our_own_errors_pass_as_they_are() -> None:
    own = errors.WrongState("It is there.")
    with pytest.raises(errors.WrongState) as found, hub_errors("org/name"):
        raise own
    assert found.value is own

"""Connections to a server that speaks S3, by boto3: with a key that is given, or with what the machine has.

boto3 takes half a second to import, so that only a registry with a bucket does it.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from registry.errors import BreadcrumbError, InvalidRequest, StorageFailed

ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([A-Za-z0-9._/-]{0,500}))?")
ENDPOINT = re.compile(r"https?://[a-z0-9.:\[\]-]+")
CODE = re.compile(r"[A-Za-z0-9]{1,50}")  # of an error; what else an answer says may contain keys
MOST_RETRIES = 3
MANY = 100  # as often as is ever asked again
DENIED = (401, 403)
ONLY_OURS = {  # variables of a session of boto3: its name in a file, that in the environment, the value without both
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
"""With a key of our own, files and profiles of this machine's user do not matter."""


@dataclass(frozen=True)
class S3Place:
    """The objects under one prefix of a bucket, and how to reach them.

    Attributes:
        bucket: The name of the bucket.
        prefix: What the names of its objects begin with; empty, or with a slash at the end.
        endpoint: The address of an S3 server other than Amazon's, or empty.
        public_endpoint: The address at which others reach that server, or empty if it is the same.
        region: The region that requests are signed for.
        key_id: The id of the key that signs; empty for the credentials that the machine has.
        secret: The secret of that key.
        session_token: What belongs to a key that is good for a while.
    """

    bucket: str
    prefix: str
    endpoint: str
    public_endpoint: str
    region: str
    key_id: str
    secret: str
    session_token: str

    def __repr__(self) -> str:
        return f"S3Place(s3://{self.bucket}/{self.prefix})"

    def connect(self, seconds: float, attempts: int = MANY, *, public: bool = False) -> Any:
        """Return a client, which several threads may use.

        Args:
            seconds: How long an answer may take.
            attempts: How often it is asked for, at most 1 + MOST_RETRIES times.
            public: Whether it only signs addresses that others use.
        """
        import boto3
        import botocore.session
        from botocore.config import Config

        endpoint = (self.public_endpoint if public else "") or self.endpoint or None
        core = botocore.session.Session(ONLY_OURS if self.key_id else None)
        core.register_component("data_loader", descriptions())
        session = boto3.session.Session(
            botocore_session=core,
            aws_access_key_id=self.key_id or None,
            aws_secret_access_key=self.secret or None,
            aws_session_token=self.session_token or None,
            region_name=self.region,
        )
        return session.client(
            "s3",
            endpoint_url=endpoint,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path" if endpoint or "." in self.bucket else "virtual"},
                connect_timeout=min(seconds, 10.0),
                read_timeout=seconds,
                retries={"mode": "standard", "total_max_attempts": min(attempts, MOST_RETRIES + 1)},
                max_pool_connections=16,
                # Other checksums than ours are unknown to many servers.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                ignore_configured_endpoint_urls=True,  # only the settings say where the bucket is
            ),
        )


@cache
def descriptions() -> Any:
    """Return what has read Amazon's descriptions of its services, once for all clients: they are megabytes of JSON."""
    from botocore.loaders import create_loader

    return create_loader()


def parse_place(
    address: str,
    *,
    endpoint: str = "",
    public_endpoint: str = "",
    region: str = "us-east-1",
    key_id: str = "",
    secret: str = "",
    session_token: str = "",
) -> S3Place:
    """Return what settings say; see `S3Place`.

    Raises:
        InvalidRequest: A setting is missing or malformed.
    """
    match = ADDRESS.fullmatch(address)
    prefix = (match[2] or "").rstrip("/") if match else ""
    if match is None or (prefix and not all(part.strip(".") for part in prefix.split("/"))):
        raise InvalidRequest("REGISTRY_BUCKET is not valid; write it like s3://name/prefix.", field="bucket")
    if bool(key_id) != bool(secret) or (session_token and not key_id):
        raise InvalidRequest(
            "A key of a bucket needs REGISTRY_BUCKET_KEY_ID and REGISTRY_BUCKET_SECRET; set both, or neither to use "
            "the credentials that this machine has.",
            field="bucket",
        )
    return S3Place(
        match[1],
        f"{prefix}/" if prefix else "",
        parse_endpoint(endpoint, "bucket_endpoint"),
        parse_endpoint(public_endpoint, "bucket_public_endpoint"),
        region,
        key_id,
        secret,
        session_token,
    )


def parse_endpoint(given: str, field: str) -> str:
    """Return the address of a server as it is used; an empty one stays empty.

    Raises:
        InvalidRequest: It is malformed.
    """
    cleaned = given.lower().rstrip("/")
    try:
        parts = urlsplit(cleaned)
        valid = ENDPOINT.fullmatch(cleaned) and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if given and not valid:
        raise InvalidRequest(
            f"REGISTRY_{field.upper()} is not valid; write it like https://s3.example.org.", field=field
        )
    return cleaned


@contextmanager
def reaching(verb: str, what: str) -> Iterator[None]:
    """Turn an error of the bucket into a sentence, without its details: requests and answers may contain keys.

    Raises:
        StorageFailed: The bucket refused, or does not answer.
    """
    from botocore import exceptions

    try:
        yield
    except BreadcrumbError:  # of whoever gives or takes the bytes
        raise
    except exceptions.ClientError as error:
        status, code = status_of(error), str(error.response.get("Error", {}).get("Code", ""))
        answer = f"{status} {code}" if CODE.fullmatch(code) and code != str(status) else str(status)
        if status in DENIED:
            step = (
                "check REGISTRY_BUCKET_KEY_ID and REGISTRY_BUCKET_SECRET (or the role of this machine), the clock, and "
                "what the key may do"
            )
        else:
            step = "check REGISTRY_BUCKET, or try again later"
        raise StorageFailed(f"The bucket did not {verb} {what}: it answered {answer}; {step}.") from None
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.ProfileNotFound,
        RuntimeError,  # of credentials that could not be renewed
    ):
        raise StorageFailed(
            f"The bucket did not {verb} {what}: there is no key to sign with; set REGISTRY_BUCKET_KEY_ID and "
            "REGISTRY_BUCKET_SECRET, or give this machine a role."
        ) from None
    except exceptions.SSLError:
        raise StorageFailed(
            f"The bucket did not {verb} {what}: its certificate is not trusted; if an authority of your own issued it, "
            "name a file with its certificate in AWS_CA_BUNDLE."
        ) from None
    except exceptions.BotoCoreError:
        raise StorageFailed(
            f"The bucket did not {verb} {what}: it cannot be reached; check REGISTRY_BUCKET_ENDPOINT, or try again "
            "later."
        ) from None


def status_of(error: Any) -> int:
    """Return the HTTP status of an answer that boto3 raised."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))

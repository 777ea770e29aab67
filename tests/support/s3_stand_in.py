"""An S3 server for tests, over real HTTP: what it is sent must be signed as Amazon says, and it can fail when told to.

Written from Amazon's description of Signature Version 4, not from the code under test. It keeps objects in memory and
knows one bucket, addressed by path: PUT (with If-None-Match), multipart uploads, GET with ranges, HEAD, DELETE and
ListObjectsV2.
"""

import base64
import hashlib
import hmac
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, quote, unquote
from xml.etree import ElementTree

from tests.support.servers import serving

STAMP = "%Y%m%dT%H%M%SZ"
SKEW = timedelta(minutes=15)
LEAST_PART = 5 * 2**20  # of all parts but the last
CUT = 0
"""An answer that is none: the connection is closed."""
HALF, WRONG = 1, 2
"""An answer of which half arrives, and one whose bytes are others."""


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Asked:
    """A request, as far as it was read."""

    method: str
    path: str  # as it was sent, encoded
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]  # by lower-case name
    body: bytes

    @property
    def word(self) -> dict[str, str]:
        return dict(self.query)


@dataclass
class S3:
    """A bucket; `fault` says which status to fail a request with, or CUT, HALF or WRONG, or None to serve it.

    With a `session_token`, the key is one for a while. A bucket that is not `conditional` overwrites what it has,
    and one without `ranges` sends objects whole.
    """

    url: str = ""
    bucket: str = "crumbs"
    region: str = "eu-test-1"
    key_id: str = "AKIASTANDIN"
    secret: str = "a-secret+of/the-stand-in"
    session_token: str = ""
    conditional: bool = True
    ranges: bool = True
    objects: dict[str, bytes] = field(default_factory=dict)
    modified: dict[str, datetime] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)  # open ones
    begun: dict[str, tuple[str, datetime]] = field(default_factory=dict)  # of which key each is, and since when
    asked: list[Asked] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)  # bytes of each object that were asked for
    refused: list[str] = field(default_factory=list)
    page: int = 1000
    late: timedelta = timedelta(0)  # how far the clock is ahead
    fault: Callable[[Asked], int | None] = lambda _: None

    def settings(self, prefix: str = "") -> dict[str, str]:
        """Return a registry's settings for this bucket."""
        token = {"bucket_session_token": self.session_token} if self.session_token else {}
        return token | {
            "bucket": f"s3://{self.bucket}/{prefix}".rstrip("/"),
            "bucket_endpoint": self.url,
            "bucket_region": self.region,
            "bucket_key_id": self.key_id,
            "bucket_secret": self.secret,
        }

    def now(self) -> datetime:
        return datetime.now(UTC) + self.late

    def methods(self) -> list[str]:
        return [asked.method for asked in self.asked]

    # Signatures --------------------------------------------------------------------------------------------------

    def verify(self, asked: Asked) -> None:
        """Refuse a request that nobody with the secret has signed, or not for now."""
        if "X-Amz-Signature" in asked.word:
            self.verify_url(asked)
        else:
            self.verify_headers(asked)

    def verify_url(self, asked: Asked) -> None:
        word = asked.word
        if word.get("X-Amz-Security-Token", "") != self.session_token:
            raise Refused(400, "InvalidToken")
        if word["X-Amz-Algorithm"] != "AWS4-HMAC-SHA256" or not 1 <= int(word["X-Amz-Expires"]) <= 7 * 86400:
            raise Refused(400, "AuthorizationQueryParametersError")
        query = [(name, value) for name, value in asked.query if name != "X-Amz-Signature"]
        signed = word["X-Amz-SignedHeaders"].split(";")
        self.compare(
            asked,
            query,
            signed,
            "UNSIGNED-PAYLOAD",
            word["X-Amz-Credential"],
            word["X-Amz-Date"],
            word["X-Amz-Signature"],
        )
        begins = parse_stamp(word["X-Amz-Date"])
        if self.now() > begins + timedelta(seconds=int(word["X-Amz-Expires"])) or begins > self.now() + SKEW:
            raise Refused(403, "AccessDenied", "Request has expired")

    def verify_headers(self, asked: Asked) -> None:
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^, ]+), ?SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})",
            asked.headers.get("authorization", ""),
        )
        if found is None:
            raise Refused(403, "AccessDenied", "Anonymous")
        stamp, payload = asked.headers["x-amz-date"], asked.headers["x-amz-content-sha256"]
        if asked.headers.get("x-amz-security-token", "") != self.session_token:
            raise Refused(400, "InvalidToken")
        signed = found[2].split(";")
        if {name for name in asked.headers if name.startswith("x-amz-")} - set(signed) or "host" not in signed:
            raise Refused(403, "AccessDenied", "There were headers present in the request which were not signed")
        self.compare(asked, list(asked.query), signed, payload, found[1], stamp, found[3])
        if abs(self.now() - parse_stamp(stamp)) > SKEW:
            raise Refused(403, "RequestTimeTooSkewed")
        if payload != "UNSIGNED-PAYLOAD" and payload != hashlib.sha256(asked.body).hexdigest():
            raise Refused(400, "XAmzContentSHA256Mismatch")

    def compare(
        self,
        asked: Asked,
        query: list[tuple[str, str]],
        signed: list[str],
        payload: str,
        credential: str,
        stamp: str,
        signature: str,
    ) -> None:
        scope = f"{stamp[:8]}/{self.region}/s3/aws4_request"
        if credential != f"{self.key_id}/{scope}":
            raise Refused(403, "InvalidAccessKeyId", f"<AWSAccessKeyId>{credential}</AWSAccessKeyId>")
        words = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query)
        request = "\n".join(
            [
                asked.method,
                quote(unquote(asked.path), safe="/-_.~"),
                "&".join(f"{name}={value}" for name, value in words),
                *(f"{name}:{' '.join(asked.headers[name].split())}" for name in signed),
                "",
                ";".join(signed),
                payload,
            ]
        )
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        key = b"AWS4" + self.secret.encode()
        for step in scope.split("/"):
            key = hmac.digest(key, step.encode(), "sha256")
        if not hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), signature):
            raise Refused(403, "SignatureDoesNotMatch", f"<StringToSign>{text}</StringToSign>")

    # What it does ------------------------------------------------------------------------------------------------

    def serve(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        """Answer a request whose signature is right."""
        bucket, _, key = unquote(asked.path).removeprefix("/").partition("/")
        if bucket != self.bucket:
            raise Refused(404, "NoSuchBucket")
        word = asked.word
        if asked.method == "HEAD" and not key:
            return 200, {"x-amz-bucket-region": self.region}, b""
        if asked.method == "GET" and not key and "uploads" in word:
            return 200, {}, self.unfinished(word)
        if asked.method in ("GET", "HEAD"):
            return self.list(word) if not key else self.get(asked, key)
        if asked.method == "DELETE" and "uploadId" in word:
            return (204, {}, b"") if self.uploads.pop(word["uploadId"], None) is not None else missing("NoSuchUpload")
        if asked.method == "DELETE":
            self.objects.pop(key, None)
            return 204, {}, b""
        if asked.method == "POST" and "uploads" in word:
            self.uploads[name := uuid.uuid4().hex] = {}
            self.begun[name] = key, datetime.now(UTC)
            return 200, {}, xml("InitiateMultipartUploadResult", Bucket=bucket, Key=key, UploadId=name)
        if asked.method == "POST" and "uploadId" in word:
            return self.complete(asked, key)
        if asked.method == "PUT":
            return self.put(asked, key)
        raise Refused(405, "MethodNotAllowed")

    def put(self, asked: Asked, key: str) -> tuple[int, dict[str, str], bytes]:
        given = asked.headers.get("x-amz-checksum-sha256")
        if given is not None and base64.b64decode(given) != hashlib.sha256(asked.body).digest():
            raise Refused(400, "BadDigest")
        if "uploadId" not in asked.word:
            self.require_free(asked, key)
            self.keep(key, asked.body)
        elif asked.word["uploadId"] not in self.uploads:
            raise Refused(404, "NoSuchUpload")
        else:
            self.uploads[asked.word["uploadId"]][int(asked.word["partNumber"])] = asked.body
        return 200, {"ETag": etag(asked.body)}, b""

    def require_free(self, asked: Asked, key: str) -> None:
        if self.conditional and asked.headers.get("if-none-match") == "*" and key in self.objects:
            raise Refused(412, "PreconditionFailed")

    def complete(self, asked: Asked, key: str) -> tuple[int, dict[str, str], bytes]:
        parts = self.uploads.get(asked.word["uploadId"])
        if parts is None:
            raise Refused(404, "NoSuchUpload")
        named = [
            (int(text(part, "PartNumber")), text(part, "ETag").replace("&quot;", '"'))
            for part in ElementTree.fromstring(asked.body)
        ]
        if [number for number, _ in named] != sorted(parts) or any(etag(parts[at]) != tag for at, tag in named):
            raise Refused(400, "InvalidPart")
        self.require_free(asked, key)
        for part in ElementTree.fromstring(asked.body):
            sums = [base64.b64decode(child.text or "") for child in part if child.tag.endswith("ChecksumSHA256")]
            if sums and sums != [hashlib.sha256(parts[int(text(part, "PartNumber"))]).digest()]:
                raise Refused(400, "InvalidPart")
        if any(len(parts[number]) < LEAST_PART for number, _ in named[:-1]):
            raise Refused(400, "EntityTooSmall")
        self.keep(key, b"".join(parts[number] for number, _ in named))
        del self.uploads[asked.word["uploadId"]]
        found = etag(self.objects[key])
        return 200, {}, xml("CompleteMultipartUploadResult", Bucket=self.bucket, Key=key, ETag=found)

    def keep(self, key: str, body: bytes) -> None:
        self.objects[key], self.modified[key] = body, datetime.now(UTC)

    def get(self, asked: Asked, key: str) -> tuple[int, dict[str, str], bytes]:
        if key not in self.objects:
            raise Refused(404, "NoSuchKey")
        body = self.objects[key]
        first, stop = 0, len(body)
        headers = {
            "ETag": etag(body),
            "Last-Modified": self.modified[key].strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "Accept-Ranges": "bytes",
            "Content-Type": asked.word.get("response-content-type", "application/octet-stream"),
        }
        if "response-content-disposition" in asked.word:
            headers["Content-Disposition"] = asked.word["response-content-disposition"]
        wanted, status = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", "")), 200
        if wanted is not None and self.ranges:
            first, stop, status = int(wanted[1]), min(int(wanted[2] or len(body)) + 1, len(body)), 206
            if first >= stop:
                raise Refused(416, "InvalidRange")
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(body)}"
        if asked.method == "GET":
            self.sent[key] = self.sent.get(key, 0) + stop - first
        return status, headers, body[first:stop]

    def unfinished(self, word: dict[str, str]) -> bytes:
        found = [
            xml("Upload", Key=key, UploadId=name, Initiated=at.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
            for name, (key, at) in self.begun.items()
            if name in self.uploads and key.startswith(word.get("prefix", ""))
        ]
        head = xml("ListMultipartUploadsResult", Bucket=self.bucket, IsTruncated="false")
        return head.replace(b"</ListMultipartUploadsResult>", b"".join(found) + b"</ListMultipartUploadsResult>")

    def list(self, word: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if word.get("list-type") != "2":
            raise Refused(400, "InvalidArgument")
        after = word.get("continuation-token") or word.get("start-after", "")
        keys = sorted(key for key in self.objects if key.startswith(word.get("prefix", "")) and key > after)
        shown = keys[: self.page]
        more = {"NextContinuationToken": shown[-1]} if len(keys) > len(shown) else {}
        contents = [
            xml(
                "Contents",
                Key=key,
                Size=str(len(self.objects[key])),
                ETag=etag(self.objects[key]),
                LastModified=self.modified[key].strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            )
            for key in shown
        ]
        head = xml("ListBucketResult", Name=self.bucket, IsTruncated=str(bool(more)).lower(), **more)
        return 200, {}, head.replace(b"</ListBucketResult>", b"".join(contents) + b"</ListBucketResult>")


def parse_stamp(stamp: str) -> datetime:
    return datetime.strptime(stamp, STAMP).replace(tzinfo=UTC)


def etag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def missing(code: str) -> tuple[int, dict[str, str], bytes]:
    raise Refused(404, code)


def text(part: ElementTree.Element, name: str) -> str:
    return next(child.text or "" for child in part if child.tag.rpartition("}")[2] == name)


def xml(name: str, **words: str) -> bytes:
    inside = "".join(f"<{key}>{value.replace('&', '&amp;')}</{key}>" for key, value in words.items())
    return f"<{name}>{inside}</{name}>".encode()


@contextmanager
def open_s3() -> Iterator[S3]:
    made = S3()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            path, _, query = self.path.partition("?")
            words = tuple(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, path, words, headers, body)
            with lock:
                made.asked.append(asked)
                fault = made.fault(asked)
                if fault == CUT:
                    self.close_connection = True
                    return
                try:
                    if fault not in (None, HALF, WRONG):
                        raise Refused(fault, "InternalError" if fault >= 500 else "Fault")
                    made.verify(asked)
                    status, sent, content = made.serve(asked)
                except Refused as error:
                    made.refused.append(error.code)
                    status, sent = error.status, {"Content-Type": "application/xml"}
                    content = f"<Error><Code>{error.code}</Code><Message>{error.message}</Message></Error>".encode()
            if fault == WRONG and content:
                content = bytes([content[0] ^ 1]) + content[1:]
            try:
                self.send_response(status)
                for name, value in {**sent, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if fault == HALF:
                    self.close_connection, content = True, content[: len(content) // 2]
                if self.command != "HEAD":
                    self.wfile.write(content)
            except OSError:
                pass  # whoever asked has gone

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *_: Any) -> None:
            pass

    with serving(Handler) as made.url:
        yield made

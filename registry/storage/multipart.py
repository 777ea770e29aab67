"""Multipart uploads to a bucket: parts are sent a few at a time, and discarded if one fails."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import datetime
from typing import Any

from registry.errors import StorageFailed
from registry.storage.pieces import checksum, joined
from registry.storage.s3 import reaching

MOST_PARTS = 10_000  # of one object, as S3 allows
LEAST_PART = 8 * 2**20
BYTES_IN_FLIGHT = 64 * 2**20  # of parts that are sent at a time, if parts are small enough
LOOK_SECONDS = 1.0  # after which whoever waits for a part looks up
TYPE = "application/octet-stream"


def send_parts(
    client: Any, named: dict[str, str], chunks: Iterator[bytes], size: int, stopping: Callable[[], bool]
) -> bool:
    """Send chunks as parts of one object; what was sent is discarded if one fails.

    Args:
        client: Sends them.
        named: The bucket and the name of the object, as boto3 takes them.
        chunks: The bytes.
        size: How many there are.
        stopping: Called every second while a part is waited for; the bytes are given up once it returns True.

    Returns:
        Whether the object is certainly there. The server may have finished it and the answer been lost; asked again, it
        knows no such upload.
    """
    from botocore.exceptions import ClientError

    waiting, part_size = deque[Future[dict[str, Any]]](), max(LEAST_PART, -(-size // MOST_PARTS))
    at_once = max(1, min(4, BYTES_IN_FLIGHT // part_size))
    begun = client.create_multipart_upload(**named, ContentType=TYPE, ChecksumAlgorithm="SHA256")
    upload = named | {"UploadId": begun["UploadId"]}

    def send(number: int, body: bytes) -> dict[str, Any]:
        stored = client.upload_part(**upload, PartNumber=number, Body=body, **checksum(body))
        return {"PartNumber": number, "ETag": stored["ETag"], **checksum(body)}

    try:
        with ThreadPoolExecutor(at_once, "bucket") as pool:
            parts = []
            for number, body in enumerate(joined(chunks, part_size), 1):
                if len(waiting) == at_once:
                    parts.append(_await(waiting.popleft(), stopping))
                waiting.append(pool.submit(send, number, body))
            parts += [_await(future, stopping) for future in waiting]
        try:
            client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except ClientError as error:
            if error.response["Error"].get("Code") != "NoSuchUpload":
                raise
            return False
        return True
    except BaseException:
        with suppress(StorageFailed), reaching("discard", named["Key"]):
            client.abort_multipart_upload(**upload)
        raise


def _await(part: Future[dict[str, Any]], stopping: Callable[[], bool]) -> dict[str, Any]:
    """Return what became of a part, however slow the bucket is."""
    while not wait([part], LOOK_SECONDS).done:
        if stopping():
            raise StorageFailed("The copy to the bucket was stopped; it is made later.")
    return part.result()


def discard_unfinished(client: Any, bucket: str, prefix: str, before: datetime) -> None:
    """Discard the uploads under a prefix that were begun before a time and not finished."""
    begun = [
        upload
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
        for upload in page.get("Uploads", ())
        if upload["Initiated"] < before
    ]
    for upload in begun:
        client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])

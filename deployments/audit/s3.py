"""Copies of the log in an S3-compatible bucket, locked so that not even their owner can delete them.

What never changes is written with `If-None-Match: *` and a retention date (object lock, mode COMPLIANCE or GOVERNANCE);
the bucket must have been created with object lock. Needs the extra `s3`, which brings boto3. Credentials come from
boto3's own chain (environment, files, instance role) and appear in no message.
"""

import importlib
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Protocol, cast

from deployments.audit.settings import ExportSettings
from deployments.audit.targets import ExportFailed
from deployments.audit.tiles import TileConflict
from deployments.clock import Clock

SCHEME = "s3://"
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 30
_ATTEMPTS = 3
_EXPLAINED = {
    "AccessDenied": "the credentials do not allow it",
    "InvalidAccessKeyId": "the credentials are not known there",
    "SignatureDoesNotMatch": "the credentials are not valid there",
    "NoSuchBucket": "there is no such bucket",
    "InvalidRequest": "the bucket has no object lock, or does not take this request",
    "ConditionalRequestConflict": "another writer is at the same object",
}


class _Body(Protocol):
    def read(self) -> bytes: ...


class _Client(Protocol):
    """What is used of boto3's S3 client, which has no types of its own."""

    def put_object(self, **arguments: object) -> object: ...
    def get_object(self, **arguments: object) -> Mapping[str, object]: ...
    def head_object(self, **arguments: object) -> object: ...
    def list_objects_v2(self, **arguments: object) -> Mapping[str, object]: ...


def _boto(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ExportFailed("an export to S3 needs boto3: install Gatehouse with its extra 's3'") from error


class S3Target:
    """A bucket, and a prefix in it."""

    def __init__(self, settings: ExportSettings, clock: Clock) -> None:
        """Nothing is sent yet. `ExportFailed` without boto3, without a region, or for a target that is no bucket."""
        bucket, _, prefix = settings.target.removeprefix(SCHEME).partition("/")
        if not settings.target.startswith(SCHEME) or not bucket:
            raise ExportFailed(f"{settings.target} is not s3://BUCKET/PREFIX")
        self._settings = settings
        self._clock = clock
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._errors: Any = _boto("botocore.exceptions")
        options: dict[str, object] = {
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "read_timeout": _READ_TIMEOUT_S,
            "retries": {"max_attempts": _ATTEMPTS, "mode": "standard"},
        }
        if settings.endpoint_url is not None:
            options["s3"] = {"addressing_style": "path"}  # few other stores have a host name for each bucket
        try:
            self._client = cast(
                "_Client",
                _boto("boto3").client(
                    "s3",
                    endpoint_url=settings.endpoint_url,
                    region_name=settings.region,
                    config=_boto("botocore.config").Config(**options),
                ),
            )
        except (self._errors.BotoCoreError, ValueError) as error:
            raise ExportFailed(f"cannot use {self.name}: {type(error).__name__}") from error

    @property
    def name(self) -> str:
        """The bucket and the prefix, as a URL."""
        return f"{SCHEME}{self._bucket}/{self._prefix}"

    def read(self, path: str) -> bytes | None:
        """The object, or None when there never was one. `ExportFailed` when it was deleted: its versions are kept."""
        try:
            return self._get(path)
        except self._errors.ClientError as error:
            if _code(error) not in {"NoSuchKey", "404"}:
                raise self._failed("read", path, error) from None
        except self._errors.BotoCoreError as error:
            raise self._failed("read", path, error) from None
        if self._was_deleted(path):
            raise ExportFailed(f"{path} was deleted from {self.name}: look at its older versions")
        return None

    def put_new(self, path: str, data: bytes) -> None:
        """Store under lock what the bucket does not have yet."""
        arguments: dict[str, object] = {"IfNoneMatch": "*"}
        if self._settings.lock_mode != "none":
            until = datetime.fromtimestamp(self._clock.now_ms() // 1000, UTC) + timedelta(days=self._settings.lock_days)
            arguments |= {"ObjectLockMode": self._settings.lock_mode, "ObjectLockRetainUntilDate": until}
        try:
            self._put(path, data, arguments)
        except self._errors.ClientError as error:
            if _code(error) not in {"PreconditionFailed", "412"}:
                raise self._failed("write", path, error) from None
        except self._errors.BotoCoreError as error:
            raise self._failed("write", path, error) from None
        else:
            return
        # It is there, perhaps from an attempt of our own whose answer was lost.
        if self.read(path) != data:
            raise TileConflict(f"{path} is stored with other bytes")

    def replace(self, path: str, data: bytes) -> None:
        """A new version of the object, not locked; a bucket with object lock keeps the old ones."""
        try:
            self._put(path, data, {})
        except (self._errors.ClientError, self._errors.BotoCoreError) as error:
            raise self._failed("write", path, error) from None

    def last(self, folder: str, after: str) -> str | None:
        """The greatest name in a folder that sorts behind `after`, or None."""
        prefix = f"{self._prefix}{folder}/"
        start, found = f"{prefix}{after}", None
        while True:
            try:
                page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, StartAfter=start)
            except (self._errors.ClientError, self._errors.BotoCoreError) as error:
                raise self._failed("list", folder, error) from None
            objects = cast("list[Mapping[str, object]]", page.get("Contents") or [])
            if not objects:
                return found
            start = str(objects[-1]["Key"])
            found = start.removeprefix(prefix)
            if not page.get("IsTruncated"):
                return found

    def filled(self, path: str) -> None:
        """Nothing: what is locked stays."""

    def _get(self, path: str) -> bytes:
        answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + path)
        return cast("_Body", answer["Body"]).read()

    def _was_deleted(self, path: str) -> bool:
        """True when a delete marker hides the object. A lock keeps its versions, not its name."""
        try:
            self._client.head_object(Bucket=self._bucket, Key=self._prefix + path)
        except self._errors.ClientError as error:
            return _headers(error).get("x-amz-delete-marker") == "true"
        except self._errors.BotoCoreError as error:
            raise self._failed("read", path, error) from None
        return False

    def _put(self, path: str, data: bytes, arguments: Mapping[str, object]) -> None:
        self._client.put_object(
            Bucket=self._bucket,
            Key=self._prefix + path,
            Body=data,
            ChecksumAlgorithm="SHA256",
            ChecksumSHA256=b64encode(sha256(data).digest()).decode("ascii"),
            **arguments,
        )

    def _failed(self, action: str, path: str, error: Exception) -> ExportFailed:
        """One sentence without the error's own text, which may repeat headers."""
        code = _code(error)
        reason = _EXPLAINED.get(code, "the store refuses" if code else "the store does not answer")
        return ExportFailed(f"cannot {action} {path} in {self.name}: {reason} ({code or type(error).__name__})")


def _response(error: Exception) -> Mapping[str, Mapping[str, object]]:
    return cast("Mapping[str, Mapping[str, object]]", getattr(error, "response", {}))


def _code(error: Exception) -> str:
    """The store's own word for the error, such as NoSuchKey; empty when it did not answer."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def _headers(error: Exception) -> Mapping[str, str]:
    return cast("Mapping[str, str]", _response(error).get("ResponseMetadata", {}).get("HTTPHeaders", {}))

"""Meaning of the exceptions of a store's client, in one line for the user."""

from __future__ import annotations

import os
from typing import Any

from voxshard.errors import (
    AccessDeniedError,
    ChangedObjectError,
    ConfigError,
    MissingObjectError,
    NoSuchBucketError,
    TransientFaultError,
    VoxshardError,
)
from voxshard.urls import PACKAGES, scheme_of

_DENIED = {
    "AccessDenied", "AllAccessDisabled", "AuthorizationHeaderMalformed", "ExpiredToken", "Forbidden",
    "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired",
}  # fmt: skip
"""Error codes of S3, https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, that credentials cause."""
_NO_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError",
    "ProfileNotFound", "SSOTokenLoadError", "UnauthorizedSSOTokenError", "DefaultCredentialsError", "RefreshError",
}  # fmt: skip
"""Exceptions of botocore and google.auth."""


def kind_of(store: Any) -> str:
    """Return `s3` or `gs` for a file system of fsspec, empty for any other store."""
    protocol = store.protocol if isinstance(store.protocol, str) else store.protocol[0]
    return {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}.get(protocol, "")


def classified(url: str, store: Any, exc: Exception) -> VoxshardError:
    """Describe an exception of a store's client in one line."""
    answer: Any = getattr(exc, "response", None) or getattr(exc.__cause__, "response", None)
    answer = answer if isinstance(answer, dict) else {}
    code = str(answer.get("Error", {}).get("Code", ""))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or getattr(exc, "code", None)
    text = " ".join(str(exc).split())[:300] or ("no answer in time" if isinstance(exc, TimeoutError) else "")
    if (fault := _credentials_fault(exc)) is not None:
        why = " ".join(str(fault).split())[:300]
        return AccessDeniedError(
            f"{url}: no usable credentials ({type(fault).__name__}: {why}); identity used: {identity(url, store)}; "
            f"{_how_to_log_in(url)}, then run the same command again"
        )
    forbidden = isinstance(exc, PermissionError) or text.startswith("Forbidden")
    if forbidden or code in _DENIED or status in (401, 403, "401", "403"):
        why = code or (f"{status}" if status else "403")
        return AccessDeniedError(
            f"{url}: access denied ({why}: {text or 'no reason given'}); identity used: {identity(url, store)}; "
            "renew expired credentials, or ask the owner of the bucket for access, then run the same command again"
        )
    if type(exc).__name__ == "ParamValidationError":
        return ConfigError(f"{url}: not a name that the store takes: {text.partition(': Bucket')[0]}")
    if code == "NoSuchBucket":
        return NoSuchBucketError(_no_bucket(url))
    if isinstance(exc, FileNotFoundError):
        if store is not None and not _bucket_exists(store, url):
            return NoSuchBucketError(_no_bucket(url))
        return MissingObjectError(f"{url}: no such object")
    if code == "PreconditionFailed" or status == 412:
        return ChangedObjectError(f"{url}: the object was replaced")
    known = f"HTTP {status}, {code or text}" if status else f"{type(exc).__name__}: {text}"
    return TransientFaultError(
        f"{url}: the store keeps failing ({known}); what is finished is kept, run the same command again later"
    )


def lacks_credentials(error: VoxshardError) -> bool:
    """Whether an error that `classified` returned means that there are no credentials, not that they are refused."""
    return error.__cause__ is not None and _credentials_fault(error.__cause__) is not None


def _credentials_fault(exc: BaseException) -> BaseException | None:
    """Return the exception of botocore or google.auth; gcsfs raises its own, a 401, because of a failed refresh."""
    chain = (exc, exc.__cause__, exc.__context__)
    return next((item for item in chain if type(item).__name__ in _NO_CREDENTIALS), None)


def identity(url: str, store: Any = None) -> str:
    """Return the name of the identity that makes the requests, never its secret."""
    if PACKAGES.get(scheme_of(url)) == "s3fs":
        if key := os.environ.get("AWS_ACCESS_KEY_ID"):  # botocore prefers it to a profile
            return f"the AWS access key that ends in {key[-4:]} (AWS_ACCESS_KEY_ID)"
        if profile := os.environ.get("AWS_PROFILE"):
            return f"AWS profile {profile}"
        if role := os.environ.get("AWS_ROLE_ARN"):
            return f"AWS role {role}"
        return "the default of AWS (~/.aws, or the role of this machine)"
    if PACKAGES.get(scheme_of(url)) == "gcsfs":
        held = getattr(getattr(store, "credentials", None), "credentials", None)
        if name := getattr(held, "service_account_email", None) or getattr(held, "account", None):
            return f"Google account {name}"
        if file := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            return f"the Google credentials in {file}"
        return "a Google user" if held is not None else "none (anonymous)"
    return f"the default of {scheme_of(url)}"


def _how_to_log_in(url: str) -> str:
    if PACKAGES.get(scheme_of(url)) == "s3fs":
        return "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws sso login`"
    return "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`"


def _no_bucket(url: str) -> str:
    scheme, _, path = url.partition("://")
    bucket = path.partition("/")[0]
    return f"{url}: no bucket {bucket!r} at {scheme}://; check its name, and the endpoint if the store is not public"


def _bucket_exists(store: Any, url: str) -> bool:
    if not kind_of(store):
        return True
    try:
        check_bucket(store, url, url.partition("://")[2])
    except (NoSuchBucketError, FileNotFoundError):
        return False
    except Exception:  # noqa: BLE001  the fault that is being described counts, not this look-up's
        return True
    return True


def check_bucket(store: Any, url: str, path: str) -> None:
    """Check that the bucket exists: stores answer a listing of a missing bucket in different ways."""
    bucket = path.partition("/")[0]
    if kind_of(store) == "s3":
        try:
            store.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
        except FileNotFoundError as exc:
            raise NoSuchBucketError(_no_bucket(url)) from exc
    elif kind_of(store) == "gs":
        try:
            store.call("GET", "b/{}/o", bucket, maxResults=1, json_out=True)
        except FileNotFoundError as exc:
            raise NoSuchBucketError(_no_bucket(url)) from exc

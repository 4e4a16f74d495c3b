"""Headers that open an object in S3 to whoever has its keys.

Source: AWS Signature Version 4, "Authenticating Requests (AWS Signature Version 4)" of the Amazon S3 API Reference.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from model_server.errors import DownloadFailed

_ALGORITHM = "AWS4-HMAC-SHA256"
_EMPTY_BODY = hashlib.sha256(b"").hexdigest()


def sign_get(
    url: str, environ: Mapping[str, str], now: datetime, headers: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Headers for a GET of `url`; good for 15 minutes and for its host alone.

    Args:
        environ: holds AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION and perhaps AWS_SESSION_TOKEN.
        now: in UTC.
        headers: more of them, to be signed as well.

    Raises:
        DownloadFailed: one of the variables is not set.
    """
    access_key, secret_key, region = (
        _variable(url, environ, name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    )
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    signed = {**(headers or {}), "x-amz-content-sha256": _EMPTY_BODY, "x-amz-date": stamp}
    if token := environ.get("AWS_SESSION_TOKEN"):
        signed["x-amz-security-token"] = token
    names, request = _canonical_request(url, signed)
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(request.encode()).hexdigest()))
    signature = hmac.new(_signing_key(secret_key, scope), text.encode(), hashlib.sha256).hexdigest()
    credential = f"Credential={access_key}/{scope},SignedHeaders={names},Signature={signature}"
    return {**signed, "Authorization": f"{_ALGORITHM} {credential}"}


def _variable(url: str, environ: Mapping[str, str], name: str) -> str:
    if value := environ.get(name):
        return value
    reason = f"s3_sse_kms needs {name} in the server's environment."
    raise DownloadFailed(f"Failed to download archive from: {url}. {reason}")


def _canonical_request(url: str, headers: Mapping[str, str]) -> tuple[str, str]:
    """Names of the signed headers, and the text that is signed."""
    parts = urlsplit(url)
    lines = {"host": parts.netloc, **{name.lower(): value.strip() for name, value in headers.items()}}
    names = ";".join(sorted(lines))
    query = "&".join(
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
        for name, value in sorted(parse_qsl(parts.query, keep_blank_values=True))
    )
    path = quote(unquote(parts.path) or "/", safe="/-_.~")
    listed = "".join(f"{name}:{lines[name]}\n" for name in sorted(lines))
    return names, "\n".join(("GET", path, query, listed, names, _EMPTY_BODY))


def _signing_key(secret_key: str, scope: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key

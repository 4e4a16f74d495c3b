"""AWS Signature Version 4, by the examples of the Amazon S3 API Reference ("Examples: Signature Calculations")."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from model_server.errors import DownloadFailed
from model_server.serving.s3_signature import sign_get

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_DEFAULT_REGION": "us-east-1",
}
NOW = datetime(2013, 5, 24, tzinfo=UTC)


def test_the_example_get_object() -> None:
    headers = sign_get("https://examplebucket.s3.amazonaws.com/test.txt", KEYS, NOW, {"Range": "bytes=0-9"})
    assert headers["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )
    assert headers["x-amz-date"] == "20130524T000000Z"


@pytest.mark.parametrize(
    ("query", "signature"),
    [
        ("lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)
def test_the_examples_with_a_query(query: str, signature: str) -> None:
    headers = sign_get(f"https://examplebucket.s3.amazonaws.com/?{query}", KEYS, NOW)
    assert headers["Authorization"].endswith(f"Signature={signature}")


def test_a_token_of_a_session_is_signed_as_well() -> None:
    headers = sign_get("https://b.s3.amazonaws.com/x.mar", KEYS | {"AWS_SESSION_TOKEN": "token"}, NOW)
    assert headers["x-amz-security-token"] == "token"
    assert "x-amz-date;x-amz-security-token" in headers["Authorization"]


@pytest.mark.parametrize("name", KEYS)
def test_what_is_missing_is_named(name: str) -> None:
    environ = {key: value for key, value in KEYS.items() if key != name}
    with pytest.raises(
        DownloadFailed, match=f"^Failed to download archive from: https://b/x.mar. s3_sse_kms needs {name}"
    ):
        sign_get("https://b/x.mar", environ, NOW)

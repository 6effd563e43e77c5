"""app.py with a certificate: https, which browsers ask for before they give a camera to another machine."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="pip install -r requirements-app.txt")
import requests

import app
from tests.serving import served

# Made for these tests alone, for localhost.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBlTCCATugAwIBAgIUT0d7MwLpukyJqmudU7wHg/LjcWowCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyOTAxMzI1OVoYDzIxMjYxMTA1
MDEzMjU5WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATzLdWWW6l6g93PDMrendtR0ZTem3HxTHAhhTk/eceUQCeWdwVQGpZT
GBlQ7Xt2VnE/yJZnFCjeuSxAWugTOAnro2kwZzAdBgNVHQ4EFgQUzTml9vKt1TQ9
Wc3XFbmnz0R1n7QwHwYDVR0jBBgwFoAUzTml9vKt1TQ9Wc3XFbmnz0R1n7QwDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID
SAAwRQIhAKhniRdfmMjJSm61pQqFIuv5zni1RZHHSurYkpb5Z780AiAuCH7sMm4F
sjnh+Jg6PXs1m/OdojKTB+RtbeIdts/6kQ==
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgN7vihaRoFONTO9h6
qlwMdt0MjffEaIQXG28dg/O26FKhRANCAATzLdWWW6l6g93PDMrendtR0ZTem3Hx
THAhhTk/eceUQCeWdwVQGpZTGBlQ7Xt2VnE/yJZnFCjeuSxAWugTOAnr
-----END PRIVATE KEY-----
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_text(CERTIFICATE)
    key.write_text(KEY)
    return certificate, key


def test_https(files: tuple[Path, Path]) -> None:
    certificate, key = map(str, files)
    with served("--ssl_certfile", certificate, "--ssl_keyfile", key) as (address, _, _):
        assert address.startswith("https://127.0.0.1:")
        port = address.rpartition(":")[2]
        assert "First Order" in requests.get(f"https://localhost:{port}", verify=certificate).text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--ssl_keyfile", "key.pem"], "--ssl_keyfile needs --ssl_certfile"),
        (["--ssl_certfile", "certificate.pem"], "is no certificate with its key; give both"),
        (["--ssl_certfile", "certificate.pem", "--ssl_keyfile", "none.pem"], "none.pem: No such file"),
        (["--ssl_certfile", "key.pem", "--ssl_keyfile", "key.pem"], "is no certificate with its key"),
    ],
)
def test_what_is_no_certificate_is_told(
    files: tuple[Path, Path],
    options: list[str],
    told: str,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(files[0].parent)
    with pytest.raises(SystemExit) as ended:
        app.main(options)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and told in error and error.count("\n") == 1

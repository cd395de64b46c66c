"""HTTPS with certificates made here: who is let in, what browsers are told, and renewal while the server runs."""

import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.cli import main
from serve.settings import Settings
from serve.web.http_server import url_of
from serve.web.middleware import security_headers
from serve.web.tls import BadCertificate, Tls, tls_of
from skipvit.client import Client
from tests.docker.dockerfile import ROOT
from tests.serve.servers import png, wait_until
from tests.serve.test_cli import program

trustme = pytest.importorskip("trustme")


class Issued:
    """A CA, and the files of a certificate that it gave to 127.0.0.1."""

    def __init__(self, folder: Path, name: str) -> None:
        self.authority = trustme.CA()
        certificate = self.authority.issue_cert("127.0.0.1")
        self.ca, self.cert, self.key = (folder / f"{name}-{part}.pem" for part in ("ca", "cert", "key"))
        self.authority.cert_pem.write_to_path(self.ca)
        certificate.private_key_and_cert_chain_pem.write_to_path(self.cert)  # both in one file
        certificate.private_key_pem.write_to_path(self.key)

    def client(self, *, identity: Any = None) -> httpx.Client:
        """One that trusts this CA alone, with a certificate of its own or none."""
        context = ssl.create_default_context(cafile=self.ca)
        if identity is not None:
            identity.configure_cert(context)
        return httpx.Client(verify=context)


def status(issued: Issued, url: str, **options: Any) -> int | None:
    """The answer of /livez on a fresh connection, or None if the two do not trust each other."""
    try:
        with issued.client(**options) as client:
            return client.get(f"{url}/livez").status_code
    except httpx.TransportError:  # some clients only hear of it when they read
        return None


def test_https_its_header_and_a_renewed_certificate(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Issued(tmp_path, "first"), Issued(tmp_path, "second")
    live = tmp_path / "live.pem"
    shutil.copy(first.cert, live)
    with program(models_dir, "--tls-cert", str(live), "--hsts-s", "60", "--threads", "1") as (_, url):
        assert url.startswith("https://")
        with first.client() as client:
            answer = client.post(f"{url}/v1/classify", content=png(), headers={"Content-Type": "image/png"})
            assert answer.status_code == 200
            assert answer.headers["strict-transport-security"] == "max-age=60"
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http") + "/livez")
        assert status(second, url) is None
        monkeypatch.setenv("SSL_CERT_FILE", str(first.ca))
        with Client(url) as skipvit_client:
            assert skipvit_client.classify(png()).predictions
        monkeypatch.delenv("SSL_CERT_FILE")
        check = subprocess.run(
            [sys.executable, "-I", ROOT / "docker" / "healthcheck.py"],
            env={"PATH": os.environ["PATH"], "SKIPVIT_PORT": url.rsplit(":", 1)[1], "SKIPVIT_TLS_CERT": str(live)},
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert (check.returncode, check.stdout[:3]) == (0, b"200")
        live.write_text("half of a file")
        os.replace(shutil.copy(second.cert, tmp_path / "renewed"), live)
        wait_until(lambda: status(second, url) == 200, 30)
        assert status(first, url) is None


def test_clients_may_have_to_show_a_certificate(models_dir: Path, tmp_path: Path) -> None:
    issued, stranger = Issued(tmp_path, "ours"), Issued(tmp_path, "theirs")
    flags = ("--tls-cert", str(issued.cert), "--tls-key", str(issued.key), "--tls-client-ca", str(issued.ca))
    with program(models_dir, *flags, "--threads", "1") as (_, url):
        assert status(issued, url) is None
        assert status(issued, url, identity=stranger.authority.issue_cert("127.0.0.1")) is None
        assert status(issued, url, identity=issued.authority.issue_cert("127.0.0.1")) == 200


def test_files_that_do_not_work_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    issued, other = Issued(tmp_path, "ours"), Issued(tmp_path, "theirs")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nothing")
    secret = tmp_path / "secret.pem"
    secret.write_bytes(_encrypted(issued.key.read_bytes()))
    for certificate, key, client_ca, said in (
        (tmp_path / "nowhere", None, None, "nowhere cannot be read: No such file"),
        (issued.cert, tmp_path / "nowhere", None, "nowhere cannot be read: No such file"),
        (nonsense, None, None, "are no certificate and its key"),
        (issued.cert, other.key, None, "are no certificate and its key: KEY_VALUES_MISMATCH"),
        (issued.cert, secret, None, "the key without a password"),
        (issued.cert, None, nonsense, "has no CA certificates that can be read"),
        (issued.cert, None, tmp_path / "nowhere", "has no CA certificates that can be read"),
    ):
        with pytest.raises(BadCertificate, match=said):
            Tls(certificate, key, client_ca)
    assert main([str(tmp_path), "--tls-cert", str(nonsense)]) == 1
    assert f"skipvit-serve: {nonsense} and {nonsense} are no certificate" in capsys.readouterr().err


def _encrypted(pem: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization as pack

    key = pack.load_pem_private_key(pem, None)
    return key.private_bytes(pack.Encoding.PEM, pack.PrivateFormat.PKCS8, pack.BestAvailableEncryption(b"password"))


def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    assert Tls(Issued(tmp_path, "ours").cert, None, None).context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_settings_of_tls(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="need tls_cert"):
        Settings(tls_key=tmp_path / "key.pem")
    assert tls_of(Settings()) is None
    assert "Strict-Transport-Security" not in security_headers(Settings())
    assert "Strict-Transport-Security" not in security_headers(Settings(tls_cert=tmp_path / "c.pem", hsts_s=0))
    assert url_of("::", 8443, tls=True) == "https://[::1]:8443/"

"""TLS from a certificate and a key in files, which may be renewed while the server runs."""

import logging
import ssl
from pathlib import Path

from serve.settings import Settings
from serve.web.watched_file import WatchedFiles

logger = logging.getLogger(__name__)


class BadCertificate(ValueError):
    """The files cannot be used; the message says which and why."""


class Tls:
    """A context for uvicorn, of TLS 1.2 and newer; with ``client_ca`` clients must show a certificate of that CA.

    ``refresh`` takes renewed files for the connections to come; files that do not work leave it as it was. The CA of
    the clients is read once.
    """

    def __init__(self, certificate: Path, key: Path | None, client_ca: Path | None) -> None:
        """Raises BadCertificate if the files cannot be used."""
        self._certificate = certificate
        self._key = key or certificate  # many have both in one file
        self._watched = WatchedFiles(certificate, self._key)
        self.context = self._new_context()
        if client_ca is not None:
            try:
                self.context.load_verify_locations(client_ca)
            except (OSError, ssl.SSLError) as error:
                raise BadCertificate(f"{client_ca} has no CA certificates that can be read: {_say(error)}") from None
            self.context.verify_mode = ssl.CERT_REQUIRED

    def refresh(self) -> None:
        """Loads the certificate again if its files have changed."""
        if not self._watched.changed():
            return
        try:
            self._new_context()  # what fails halfway would leave the running one with half a pair
            self._load(self.context)
        except BadCertificate as error:
            logger.error("the certificate stays as it was: %s", error)
        else:
            logger.info("read the certificate again from %s", self._certificate)

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        for file in (self._certificate, self._key):
            try:
                file.open("rb").close()
            except OSError as error:
                raise BadCertificate(f"{file} cannot be read: {_say(error)}") from None
        try:
            # Without a password of ours OpenSSL would ask for one on the terminal, and the server hang.
            context.load_cert_chain(self._certificate, self._key, password="")
        except (OSError, ssl.SSLError) as error:
            raise BadCertificate(
                f"{self._certificate} and {self._key} are no certificate and its key: {_say(error)}; "
                "both are needed as PEM, the key without a password"
            ) from None


def tls_of(settings: Settings) -> Tls | None:
    """TLS as the settings want it. Raises BadCertificate if the files cannot be used."""
    if settings.tls_cert is None:
        return None
    return Tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def _say(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error.strerror or error)

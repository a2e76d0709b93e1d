"""Where the daemon is, and how it is asked: address, token, certificate."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from stream_rnn.spi import SettingError, require_port

DEFAULT = "127.0.0.1:9464"
DEFAULT_PORT = 9464
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # listened on -> asked
MAX_ADDRESS_CHARS = 300
_EXAMPLE = f'e.g. "{DEFAULT}" or "https://learner.example:9464"'


@dataclass(frozen=True, slots=True)
class Place:
    """A daemon's HTTP side.

    Attributes:
        host, port: where it listens; `host` is a name or an address without brackets.
        is_tls: whether it speaks TLS.
        token: sent with every request.
        authority: PEM file with those who may have signed its certificate; None: the system's.
        certificate: PEM file with the very certificate it must show; nobody else is asked then.
    """

    host: str
    port: int
    is_tls: bool = False
    token: str | None = field(default=None, repr=False)
    authority: Path | None = None
    certificate: Path | None = None

    @property
    def address(self) -> str:
        """As the Host header says it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """As a person writes it."""
        return f"{'https' if self.is_tls else 'http'}://{self.address}/"

    def context(self) -> ssl.SSLContext | None:
        """How TLS is spoken, read anew at every connection; None: it is not.

        Raises:
            OSError: a file cannot be read (ssl.SSLError is one: it holds no certificate).
        """
        if not self.is_tls:
            return None
        context = ssl.create_default_context(cafile=self.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate is not None:  # `require_shown` compares: whose name it has is no matter
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def require_shown(self, connection: ssl.SSLSocket) -> None:
        """Raise ssl.SSLError if another certificate was shown than the one that is known."""
        if self.certificate is None:
            return
        text = self.certificate.read_text("ascii", "replace")
        begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
        first = text[text.find(begin) : text.find(end) + len(end)]  # its issuers come behind it
        try:
            known = ssl.PEM_cert_to_DER_cert(first)
        except ValueError:
            raise ssl.SSLError(f"{self.certificate} holds no certificate") from None
        if connection.getpeercert(binary_form=True) != known:
            raise ssl.SSLError(f"it shows another certificate than {self.certificate} holds")


def parse(address: str) -> Place:
    """A place from "host:port", "host", or an URL of it.

    Raises:
        SettingError: it is none of those.
    """
    scheme, is_url, rest = address.partition("://")
    if not is_url:
        scheme, rest = "http", address
    rest = rest.removesuffix("/")
    is_plain = (
        rest != "" and rest.isascii() and rest.isprintable() and not set(rest) & set(" /@?#\\")
    )
    if scheme.lower() not in ("http", "https") or not is_plain or len(rest) > MAX_ADDRESS_CHARS:
        raise SettingError(f"address: expected one, {_EXAMPLE}, got {address[:100]!r}")
    if ":" not in rest or rest.endswith("]"):
        rest = f"{rest}:{DEFAULT_PORT}"
    host, port = require_port(rest, "address")
    if port == 0:
        raise SettingError(
            "address: port 0 lets the daemon take a free port; give the one that its start tells, "
            f"{_EXAMPLE}"
        )
    return Place(ANYWHERE.get(host, host), port, is_tls=scheme.lower() == "https")

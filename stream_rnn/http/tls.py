"""A certificate for the server, read again when it is renewed."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

from stream_rnn.spi import SettingError

_log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0  # for a renewed certificate; they are renewed every few weeks


class Certificate:
    """A certificate chain and its key, as TLS 1.2 and newer need them.

    Args:
        chain: PEM file with the certificate, its issuers behind it.
        key: PEM file with the private key; None: it stands in the same file.
        clock: seconds, monotonic.

    Raises:
        SettingError: a file cannot be read, does not fit the other, or the key wants a password.
    """

    def __init__(
        self, chain: str, key: str | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._chain, self._key = Path(chain), None if key is None else Path(key)
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = self._times()
        self._looked = clock()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """For the next connection. Any thread."""
        with self._lock:
            if self._clock() - self._looked >= LOOK_EVERY_S:
                self._looked = self._clock()
                self._renew()
            return self._context

    def _renew(self) -> None:
        try:
            times = self._times()
            if times == self._seen:
                return
            self._seen = times
            self._context = self._load()
        except SettingError as error:  # half of it is written: the one we have goes on
            _log.warning("the renewed certificate is not used: %s", error)
        else:
            _log.info("the certificate was read again: %s", self._chain)

    def _times(self) -> tuple[int, ...]:
        try:
            return tuple(path.stat().st_mtime_ns for path in (self._chain, self._key) if path)
        except OSError as error:
            raise SettingError(
                f"certificate: {error.filename} cannot be read ({error.strerror}); name PEM files "
                "in certificate and key"
            ) from error

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._chain, self._key, password=_no_password)
        except OSError as error:  # ssl.SSLError is one
            key = "" if self._key is None else f" and key {self._key}"
            raise SettingError(
                f"certificate: {self._chain}{key} cannot be used "
                f"({error.strerror or error}); expected a PEM chain and its own key"
            ) from error
        return context


def _no_password() -> str:
    """Instead of a question on the terminal, which a daemon must not wait for."""
    raise SettingError(
        "key: it is encrypted, and a daemon has nobody to ask for the password; decrypt it "
        "(`openssl pkey`) and guard the file"
    )

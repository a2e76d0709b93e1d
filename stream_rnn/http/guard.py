"""Who may ask: the Host and Origin headers of browsers, and the token of everybody else.

A browser on this machine reaches loopback for any web page it shows. DNS rebinding: a page whose
name is made to resolve to 127.0.0.1 reads what it asks for, and its own name in the Host header
gives it away. Cross-site requests: a page sends without reading the answer, and the Origin header
and the token it does not have give it away.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from stream_rnn.http.routes import Answer, Route, text
from stream_rnn.spi import SettingError, is_loopback

LEAST_TOKEN_CHARS = 16
_FRESH_TOKEN_BYTES = 32


class Guard:
    """Decides on a request by its headers alone.

    Args:
        local: whether the address reaches this machine only.
        insecure: whether others may read without a token.
        token: what a POST needs, always, and reading from other machines unless `insecure`.
        scheme: "http" or "https", as the server speaks.

    Raises:
        SettingError: others could read, and nothing was said about it; or the token is weak.
    """

    def __init__(
        self, address: str, local: bool, insecure: bool, token: str | None, scheme: str = "http"
    ) -> None:
        if not local and not insecure and token is None:
            port = address.rpartition(":")[2]
            raise SettingError(
                f"address: {address} can be reached by other machines, and the page asks for no "
                f'password; use "127.0.0.1:{port}", set token = "env:NAME", or set '
                "insecure = true where every machine around is trusted"
            )
        self._local = local
        self._reading_is_free = local or insecure
        self._token = None if token is None else token.encode()
        self._origin = f"{scheme}://"

    def refuses(self, headers: Message, route: Route | None) -> Answer | None:
        """Why the request is not answered, or None; `route` None: there is no such path."""
        if not self._addressed_to_us(headers):
            words = "this page answers to localhost only, see the Host header\n"
            return text(HTTPStatus.FORBIDDEN, words)
        if not self._from_us(headers):
            words = "this page answers to itself only, see the Origin header\n"
            return text(HTTPStatus.FORBIDDEN, words)
        is_public = route is not None and route.public
        is_reading = route is None or route.method == "GET"
        if is_public or (is_reading and self._reading_is_free) or self._knows_token(headers):
            return None
        return text(
            HTTPStatus.UNAUTHORIZED,
            "this needs the header Authorization: Bearer TOKEN\n",
            ("WWW-Authenticate", 'Bearer realm="stream-rnn"'),
        )

    def _addressed_to_us(self, headers: Message) -> bool:
        if not self._local:
            return True
        try:
            hosts = headers.get_all("Host", [])
            return all(is_loopback(urlsplit(f"//{host}").hostname or "") for host in hosts)
        except ValueError:
            return False

    def _from_us(self, headers: Message) -> bool:
        """No Origin header, or the one that a page of ours sends."""
        hosts = {host.strip().lower() for host in headers.get_all("Host", [])}
        origins = {origin.strip().lower() for origin in headers.get_all("Origin", [])}
        return not origins or origins == {self._origin + host for host in hosts}

    def _knows_token(self, headers: Message) -> bool:
        said = headers.get_all("Authorization", [])
        if self._token is None or len(said) != 1:
            return False
        scheme, _, given = said[0].strip().partition(" ")
        # in constant time: how long a comparison takes must not tell how far it got
        is_it = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token)
        return is_it and scheme.lower() == "bearer"


def require_token(token: str) -> None:
    """Raise SettingError for a token that can be guessed, or that no header can carry."""
    if len(token) < LEAST_TOKEN_CHARS or not token.isascii() or not token.isprintable():
        raise SettingError(
            f"token: expected at least {LEAST_TOKEN_CHARS} printable ASCII characters, got "
            f"{len(token)}; take what `openssl rand -hex 32` prints"
        )
    if " " in token:
        raise SettingError("token: a space cannot stand in a token; leave it out")


def token_in(path: Path) -> str:
    """The token in a file that only its owner can read; written where there is none yet.

    One that others can read, or that is no plain file, is replaced.

    Raises:
        SettingError: the file cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # there is none, or it is a link: a new one takes its place
        return _fresh(path)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if is_ours and not stat.S_IMODE(found.st_mode) & 0o077:
            kept = file.read(1024).decode("ascii", "replace").strip()
            if len(kept) >= 2 * LEAST_TOKEN_CHARS and kept.isascii() and kept.isprintable():
                return kept
    return _fresh(path)


def _fresh(path: Path) -> str:
    token = secrets.token_urlsafe(_FRESH_TOKEN_BYTES)
    draft = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
        draft.rename(path)
    except OSError as error:
        raise SettingError(
            f'token: {path} cannot be written ({error.strerror}); set token = "env:NAME"'
        ) from error
    return token

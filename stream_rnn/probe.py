"""Asks a running daemon whether it is well, for supervisors without an HTTP client of their own."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path

from stream_rnn import config
from stream_rnn.assembly import settings
from stream_rnn.config import ConfigError
from stream_rnn.spi import SettingError, require_port

PATIENCE_S = 4.0  # for each wait; less than the usual timeout of a container's probe
MAX_BYTES = 64 * 1024


def address_of(target: str) -> str:
    """The address that `target` is, or where the daemon of the configuration `target` serves.

    Raises:
        ConfigError: it is a folder, a file that is missing, or no configuration of a daemon that
            serves.
    """
    path = Path(target)
    if config.is_folder(path):
        raise ConfigError(f"health {target}: a folder; name the configuration or an address")
    if not path.is_file():
        if path.suffix == ".toml":
            raise ConfigError(f"health {target}: no such file; name a configuration or an address")
        return target
    tables = config.load(path)
    settings.require_sound(tables)
    tables.get("metrics", {}).pop("token", None)  # not needed, and perhaps the daemon's alone
    table = settings.build_metrics(path, tables)
    try:
        _, port = require_port(table.address)
    except SettingError as error:
        raise ConfigError(f"[metrics] {error}") from error
    if port == 0:
        raise ConfigError(
            "[metrics] address: port 0 lets the daemon take a free port; give health the address "
            "that its start tells"
        )
    return table.address if table.certificate is None else f"https://{table.address}"


def ask(address: str, page: str) -> list[str]:
    """Reasons why the daemon at "host:port" is not well; none means that it is.

    Args:
        address: as in `[metrics] address`; "0.0.0.0" and "::" are asked on this machine. With
            "https://" before it, by TLS; whose certificate it is does not matter, since nothing
            secret is sent and the answer is one bit.
        page: "/livez" or "/readyz".

    Raises:
        SettingError: the address is malformed.
    """
    host, port = require_port(address.removeprefix("https://"))
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    if address.startswith("https://"):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=PATIENCE_S, context=context)
    try:
        connection.request("GET", page)
        answer = connection.getresponse()
        body = answer.read(MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        return [f"{address}{page} does not answer: {error or type(error).__name__}"]
    finally:
        connection.close()
    return [] if answer.status == http.HTTPStatus.OK else _reasons(answer.status, body)


def _reasons(status: int, body: bytes) -> list[str]:
    try:
        reasons = json.loads(body)["failing"]
        if isinstance(reasons, list) and reasons:
            return [str(reason) for reason in reasons]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # no verdict of ours: another program has the port, which the status tells
    return [f"status {status}"]

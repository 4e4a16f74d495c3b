"""`modelserver token`: the tokens of a running server, for a shell."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import click
import psutil

from model_server.config.errors import ConfigError
from model_server.logs import printable
from model_server.pid_file import PidFile
from model_server.tokens import KEY_FILE, KEY_NAMES, SCOPES, KeyFileError, KeyName, Scope, read_keys

DEFAULT_URL = "http://127.0.0.1:8081"
_TIMEOUT_S = 30
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")

_key_file = click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help=f"Where the keys are; otherwise {KEY_FILE} here, or in the folder the running server was started in.",
)
_pid_file = click.option(
    "--pid-file",
    type=click.Path(path_type=Path),
    help="Where the server's process id stands: the --pid-file it was started with. Its keys are meant then.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def token() -> None:
    """Show and renew the tokens that requests have to carry.

    curl http://127.0.0.1:8081/models -H "$(modelserver token show management)"
    """


@token.command()
@click.argument("key", type=click.Choice(KEY_NAMES, case_sensitive=False))
@_key_file
@_pid_file
def show(key: KeyName, key_file: Path | None, pid_file: Path | None) -> None:
    """Print the header that a request needs: Authorization: Bearer KEY."""
    _print_header(_found(key_file, pid_file), key)


@token.command()
@click.argument("scope", type=click.Choice(SCOPES))
@click.option("--url", default=DEFAULT_URL, show_default=True, help="Where the server is managed.")
@click.option(
    "--cacert",
    type=click.Path(path_type=Path),
    help="PEM file with the certificates to trust, for https; otherwise those that this machine trusts.",
)
@_key_file
@_pid_file
def renew(scope: Scope, url: str, cacert: Path | None, key_file: Path | None, pid_file: Path | None) -> None:
    """Let the server replace a token, and print the new header. The old token holds no longer."""
    path = _found(key_file, pid_file)
    before = read_keys(path)
    _check_who_listens(url, path, pid_file)
    _renew(url, cacert, scope, before["API"].header)
    if read_keys(path)[scope].key == before[scope].key:
        raise click.ClickException(f"{url} says that it has renewed the token, and {path} has the old one.")
    _print_header(path, scope)


def main(words: Sequence[str]) -> int:
    """Runs the command; returns the exit status: 0, 1 when it is refused, 2 for wrong usage."""
    try:
        status: int | None = token.main(list(words), "modelserver token", standalone_mode=False)
        return status or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyFileError, ConfigError) as error:
        click.echo(f"Error: {error}", err=True)
        return 1


def _print_header(path: Path, key: KeyName) -> None:
    shown = read_keys(path)[key]
    if shown.is_expired(datetime.now(UTC)):
        hint = f"Get a new one with: modelserver token renew {key}"
        raise click.ClickException(f"The {key} token in {path} expired at {shown.expires_at}. {hint}")
    click.echo(shown.header)


def _found(key_file: Path | None, pid_file: Path | None) -> Path:
    if key_file is not None and pid_file is not None:
        raise click.UsageError("--key-file and --pid-file both say whose keys are meant: name one of them.")
    if key_file is not None:
        return key_file
    here = Path(KEY_FILE)
    if pid_file is None and here.exists():
        return here
    with redirect_stdout(sys.stderr):  # ours is for the header
        server = PidFile(pid_file).running()
    try:
        path = Path(server.cwd(), KEY_FILE) if server else None
    except psutil.Error as error:
        raise click.ClickException(f"The server's folder cannot be found ({error}): name --key-file.") from error
    if path is None or not path.exists():
        raise click.ClickException(
            f"There is no {KEY_FILE} here, and no running server that has one: it is started without tokens, under "
            "another TMPDIR, with a --pid-file, or not at all. --key-file names one that lies elsewhere."
        )
    return path


def _check_who_listens(url: str, key_file: Path, pid_file: Path | None) -> None:
    """The API key must not go to somebody who has taken the port where the server could be, as any user may."""
    try:
        with redirect_stdout(sys.stderr):
            server = PidFile(pid_file).running()
        if server is None or Path(server.cwd(), KEY_FILE).resolve() != key_file.resolve():
            return  # on another machine, or started with a pid file that was not named
        ports = {each.laddr.port for each in server.net_connections("inet") if each.status == psutil.CONN_LISTEN}
    except (ConfigError, psutil.Error):
        return  # another user's
    address = _address(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    if address.hostname in _THIS_MACHINE and port not in ports:
        raise click.ClickException(f"The server does not listen at {url}. --url names where it is managed.")


def _renew(url: str, cacert: Path | None, scope: Scope, header: str) -> None:
    connection = _connection(url, cacert)
    try:
        name, _, value = header.partition(": ")
        connection.request("PUT", f"/token?type={scope}", headers={name: value})
        answer = connection.getresponse()
        _check(answer, answer.read().decode(errors="replace"), url)
    except ssl.SSLCertVerificationError as error:
        hint = "--cacert names the certificates to trust."
        raise click.ClickException(f"{url} cannot be trusted ({error.verify_message}). {hint}") from error
    except (OSError, HTTPException) as error:
        hint = "--url names another place where the server is managed."
        raise click.ClickException(f"{url} does not answer ({error}). {hint}") from error
    finally:
        connection.close()


def _connection(url: str, cacert: Path | None) -> HTTPConnection:
    """Straight to the server: the API key is not for a proxy that the environment names."""
    address = _address(url)
    host, port = address.hostname or "", address.port
    if address.scheme == "http":
        return HTTPConnection(host, port, timeout=_TIMEOUT_S)
    return HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=_trusting(cacert))


def _address(url: str) -> SplitResult:
    try:
        address = urlsplit(url)
        if address.hostname and address.scheme in ("http", "https") and (address.port is None or address.port >= 0):
            return address
    except ValueError:
        pass
    raise click.ClickException(f"--url {url} is not of the form http://host:port.")


def _trusting(cacert: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=cacert)
    except OSError as error:  # what ssl raises is one, too
        raise click.ClickException(f"--cacert {cacert} has no certificates that can be read ({error}).") from error


def _check(answer: HTTPResponse, body: str, url: str) -> None:
    if answer.status == 404:
        raise click.ClickException(f"{url} renews no tokens: it is another API, or the server uses none.")
    if answer.status != 200:
        raise click.ClickException(f"{url} refused, status {answer.status}: {printable(' '.join(body.split()))[:500]}")

"""Tests that each mistake in DATABASE_URL is reported in one line, which names the fix and never the password."""

import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

from shared.database.connection_errors import explain, pooler_error
from shared.database.postgres import connect
from shared.errors import AppError, ConfigurationError, DatabaseBusy, DatabaseUnavailable
from tests.database.rows import InThread
from tests.password_server import PasswordServer
from tests.pgbouncer import PgBouncer
from tests.postgres_cluster import Cluster
from tests.postgrest_server import free_ports

PASSWORD = "secret-word"
OVER_TLS = (
    'FATAL:  password authentication failed\nFATAL:  no pg_hba.conf entry for host "h", user "app", no encryption'
)


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[PasswordServer]:
    with PasswordServer(cluster.system_user) as running:
        yield running


def refused(url: str) -> AppError:
    """The error of a connection to a URL. Asserts that its message and its traceback contain no password."""
    with pytest.raises(AppError) as caught:
        connect(SecretStr(url)).close()
    assert "\n" not in caught.value.message
    assert "DATABASE_URL" in caught.value.message or isinstance(caught.value, DatabaseBusy)
    everything = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in everything
    assert "secret" not in everything
    return caught.value


# URLs that libpq splits in the wrong place


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://app:secret@word@127.0.0.1/postgres", "percent-encoded: @ as %40"),
        ("postgresql://app:secret/word@127.0.0.1/postgres", "percent-encoded"),
        ("postgresql://app:secret/wo?rd@127.0.0.1/postgres", "percent-encoded"),
        ("postgresql://app:secret/wo?r=d@127.0.0.1/postgres", "percent-encoded"),
        ("postgresql://app:secret%word@127.0.0.1/postgres", "% as %25"),
        ("postgresql://app:secret word@127.0.0.1/postgres", "a blank as %20"),
        ("postgresql://app@127.0.0.1/postgres?pgbouncer=true", "does not know the parameter pgbouncer: remove it"),
        ("postgresql://app@127.0.0.1/postgres?pgbouncer", "does not know the parameter pgbouncer: remove it"),
        ("postgresql://app@127.0.0.1/postgres?secret-word=1", "does not know the parameter: remove it"),
        ("postgresql://app@127.0.0.1:54x2/postgres", "the port is not a number"),
        ("postgresql://app@localhost:54x2/postgres", "the port is not a number"),
        ("postgresql://app:secret-word/postgres", "the port is not a number"),
        ("postgresql://app@127.0.0.1:99999/postgres", "the port is not a number from 1 to 65535"),
        ("postgresql://app@::1:5432/postgres", "an IPv6 address needs brackets"),
        ("postgresql://app@2001:db8::1/postgres", "an IPv6 address needs brackets"),
        ("postgresql://app:secret-word@[::1:5432/postgres", "an IPv6 address needs brackets"),
        ("postgresql://app:secret-word@[::1]5432/postgres", "an IPv6 address needs brackets"),
        ("postgresql://app@127.0.0.1:1/postgres?sslmode=yes", "sslmode must be disable, allow"),
        ("postgresql://app@127.0.0.1:1/postgres?sslmode=require&sslrootcert=system", "sslrootcert=system needs verify-full"),
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_read_names_its_part(url: str, reason: str) -> None:
    error = refused(url)
    assert isinstance(error, ConfigurationError)
    assert reason in error.message


# The network


@pytest.mark.parametrize("host", ["no-such-host.invalid", "double..dot"])
def test_an_unknown_host_is_named(host: str) -> None:
    error = refused(f"postgresql://app:{PASSWORD}@{host}/postgres")
    assert isinstance(error, DatabaseUnavailable)
    assert f'the host name "{host}" is unknown' in error.message


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_a_closed_port_is_named_with_its_host(host: str) -> None:
    (port,) = free_ports(1)
    error = refused(f"postgresql://app:{PASSWORD}@{host}:{port}/postgres")
    assert isinstance(error, DatabaseUnavailable)
    assert host == "[::1]" or f"no server listens at {host}:{port}" in error.message


def test_a_socket_without_a_server_names_its_folder(tmp_path: Path) -> None:
    assert f"no server listens at {tmp_path};" in refused(f"postgresql://app@/postgres?host={tmp_path}").message


def test_a_server_that_is_not_postgresql_is_named() -> None:
    def answer() -> None:
        with web.accept()[0] as client:
            client.recv(8)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as web:
        port = web.getsockname()[1]
        answering = InThread(answer)
        assert f"127.0.0.1:{port} is not PostgreSQL" in refused(f"postgresql://app@127.0.0.1:{port}/postgres").message
        answering.result()


# Answers of a server


@pytest.mark.parametrize(
    ("place", "kind", "reason"),
    [
        ("app:secret-wort@{}/postgres", ConfigurationError, 'the server refused the password of user "app"'),
        ("unknown@{}/postgres", ConfigurationError, 'admits user "unknown" to database "postgres" only with TLS, or not'),
        ("app@{}/postgres", ConfigurationError, 'asks user "app" for a password'),
        ("trusted@{}/musik", ConfigurationError, 'the database "musik" does not exist on this server'),
        ("trusted@{}", ConfigurationError, 'the database "trusted" does not exist'),
        ("missing@{}/postgres", ConfigurationError, 'the role "missing" does not exist'),
        ("nologin:secret-word@{}/postgres", ConfigurationError, 'the role "nologin" does not exist or may not log in'),
        ("trusted@{}/closed", ConfigurationError, 'the role "trusted" may not connect to database "closed"'),
        ("demands_tls@{}/postgres?sslmode=disable", ConfigurationError, "only with TLS, or not from this address: write sslmode"),
        ("app:secret-word@{}/postgres?sslmode=require", ConfigurationError, "the server offers no TLS"),
        ("limited:secret-word@{}/postgres", DatabaseBusy, "has no free connection"),
    ],
)  # fmt: skip
def test_what_the_server_refuses_is_named(
    server: PasswordServer, place: str, kind: type[AppError], reason: str
) -> None:
    error = refused("postgresql://" + place.format(f"127.0.0.1:{server.port}"))
    assert type(error) is kind
    assert reason in error.message


def test_percent_encoded_characters_and_a_right_url_connect(server: PasswordServer) -> None:
    with server.admin() as admin:
        admin.execute("alter role app password 'p@s#s/w%r:d? x'")
    try:
        url = f"postgresql://app:p%40s%23s%2Fw%25r%3Ad%3F%20x@127.0.0.1:{server.port}/postgres"
        with connect(SecretStr(url)) as connection:
            assert connection.execute("select current_user").fetchone() == ("app",)
    finally:
        with server.admin() as admin:
            admin.execute("alter role app password 'secret-word'")


# Answers of PgBouncer


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("app:secret-wort@{}/postgres", 'the server refused the password of user "app"'),
        ("unknown:secret-word@{}/postgres", '"unknown"'),
        ("app:secret-word@{}/musik", 'the database "musik" does not exist'),
        ("app:secret-word@{}/postgres?options=-c%20jit%3Doff", "does not accept the parameter options"),
        ("app:secret-word@{}/postgres?sslmode=require", "the server offers no TLS"),
    ],
)  # fmt: skip
def test_what_a_pooler_refuses_is_named(passwords: PgBouncer, place: str, reason: str) -> None:
    error = refused("postgresql://" + place.format(f"127.0.0.1:{passwords.port}"))
    assert isinstance(error, ConfigurationError)
    assert reason in error.message


@pytest.fixture(scope="module")
def passwords(pooler: Callable[[str], PgBouncer], cluster: Cluster) -> Iterator[PgBouncer]:
    """A PgBouncer that asks for passwords."""
    with PgBouncer(cluster.url("postgres"), "transaction", users={"app": PASSWORD}) as running:
        yield running


@pytest.fixture(scope="module")
def tls(pooler: Callable[[str], PgBouncer], cluster: Cluster) -> Iterator[PgBouncer]:
    """A PgBouncer that demands TLS, with a certificate that no public CA has signed."""
    with PgBouncer(cluster.url("postgres"), "session", tls=True) as running:
        yield running


@pytest.mark.parametrize(
    ("host", "parameters", "reason"),
    [
        ("127.0.0.1", "sslmode=disable", "the server demands TLS: write sslmode=require"),
        ("127.0.0.1", "sslmode=verify-full", "the certificate of the server's CA: download it and add sslrootcert="),
        ("127.0.0.1", "sslmode=verify-ca&sslrootcert=/nowhere/ca.crt", "need the certificate of the server's CA"),
        ("127.0.0.1", "sslmode=verify-full&sslrootcert=system", "not signed by the CA in sslrootcert"),
        ("localhost", "sslmode=verify-full&sslrootcert={}", "the server's certificate is for another host name"),
    ],
)
def test_each_failure_of_tls_is_named(
    tls: PgBouncer, host: str, parameters: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    parameters = parameters.format(tls.certificate)
    error = refused(f"postgresql://app:{PASSWORD}@{host}:{tls.port}/postgres?{parameters}")
    assert isinstance(error, ConfigurationError)
    assert reason in error.message


def test_a_certificate_of_the_named_ca_is_accepted(tls: PgBouncer) -> None:
    parameters = f"sslmode=verify-full&sslrootcert={tls.certificate}"
    with connect(SecretStr(f"postgresql://app@127.0.0.1:{tls.port}/postgres?{parameters}")) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


# Messages that no server of the tests sends


@pytest.mark.parametrize(
    ("message", "kind", "reason"),
    [
        (OVER_TLS, ConfigurationError, "refused the password"),
        ('FATAL:  no pg_hba.conf entry for host "h", user "app", SSL encryption', ConfigurationError, "does not admit user"),
        ("FATAL:  Tenant or user not found", ConfigurationError, "where the user is postgres.PROJECT"),
        ("FATAL:  MaxClientsInSessionMode: max clients reached", DatabaseBusy, "no free connection"),
        ("FATAL:  remaining connection slots are reserved for roles", DatabaseBusy, "no free connection"),
        ("FATAL:  the database system is starting up", DatabaseUnavailable, "is starting or stopping"),
        ("connection to server at \"::1\" failed: Network is unreachable", DatabaseUnavailable, "only an IPv6 address"),
        ('server certificate for "a" does not match host name "b"', ConfigurationError, "another host name"),
        ("connection timeout expired", DatabaseUnavailable, "did not answer in time"),
        ("FATAL:  Passwort falsch", DatabaseUnavailable, "the connection to h:5432 failed"),
    ],
)  # fmt: skip
def test_messages_of_other_servers_are_understood(message: str, kind: type[AppError], reason: str) -> None:
    error = explain(psycopg.OperationalError(message), SecretStr(f"postgresql://app:{PASSWORD}@h/d"))
    assert type(error) is kind
    assert reason in error.message


def test_the_servers_answer_comes_before_that_of_another_address() -> None:
    message = (
        'failed: Connection refused\n- host: "h": FATAL:  password authentication failed for user "app"\n'
        '- host: "h", hostaddr: "::1": Connection refused'
    )
    error = explain(psycopg.OperationalError(message), SecretStr("postgresql://app@h/d"))
    assert "refused the password" in error.message


def test_a_statement_that_the_pooler_refuses_raises_busy_or_unavailable() -> None:
    assert isinstance(pooler_error("query_wait_timeout"), DatabaseBusy)
    assert isinstance(pooler_error("server conn crashed?"), DatabaseUnavailable)
    assert pooler_error("invalid frontend message type 0") is None

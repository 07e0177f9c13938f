"""Explains why a connection to DATABASE_URL fails: what is wrong and how to fix it, without the password."""

import re
from dataclasses import dataclass

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from shared.errors import AppError, ConfigurationError, DatabaseBusy, DatabaseUnavailable


@dataclass(frozen=True, slots=True)
class Rule:
    """A failure that is recognised by the message of libpq, the server or a pooler; `text` explains it and its fix."""

    sign: re.Pattern[str]
    kind: type[AppError]
    text: str


def _rule(kind: type[AppError], sign: str, text: str) -> Rule:
    return Rule(re.compile(sign, re.IGNORECASE | re.DOTALL), kind, text)


_UNENCODED = _rule(
    ConfigurationError,
    r"percent-encoded|unexpected spaces",
    "a character of the user name or password must be percent-encoded: "
    "@ as %40, / as %2F, : as %3A, % as %25, a blank as %20",
)
_BRACKETS = _rule(
    ConfigurationError,
    r'matching "\]"|expected ":" or "/"|IPv6 host address may not be empty',
    "an IPv6 address needs brackets: postgresql://user@[::1]:5432/database",
)
_PARAMETER = r'URI query parameter: "(?P<parameter>.*)"'

# The first rule that matches is used. Answers of a server come before errors of the network: if the host has several
# addresses, the message quotes the attempts on all of them.
_RULES = (
    _UNENCODED,
    _BRACKETS,
    _rule(
        ConfigurationError,
        _PARAMETER,
        "PostgreSQL does not know the parameter{parameter}: remove it "
        "(pgbouncer, connection_limit, schema and the like belong to other programs)",
    ),
    _rule(
        ConfigurationError,
        r'connection option "port"|invalid port number|servname not supported',
        "the port is not a number from 1 to 65535 (a / in the password must be written %2F)",
    ),
    _rule(
        ConfigurationError,
        r"(invalid|weak) sslmode",
        "sslmode must be disable, allow, prefer, require, verify-ca or verify-full; sslrootcert=system needs verify-full",
    ),
    _rule(
        ConfigurationError,
        r"root certificate file|could not load system root certificate",
        "sslmode=verify-full and verify-ca need the certificate of the server's CA: download it and add "
        "sslrootcert=/path/to/ca.crt, or sslrootcert=system for a public CA",
    ),
    _rule(
        ConfigurationError,
        r"does not match host name",
        "the server's certificate is for another host name: use the name in the certificate, or sslmode=verify-ca",
    ),
    _rule(
        ConfigurationError,
        r"certificate verify failed",
        "the server's certificate is not signed by the CA in sslrootcert: use the CA of this server",
    ),
    _rule(
        ConfigurationError,
        r"server does not support SSL",
        "the server offers no TLS: remove sslmode, or write sslmode=disable",
    ),
    _rule(
        ConfigurationError,
        r"tenant or user not found|tenant/user",
        'the pooler does not know user "{user}": copy the address from the project, where the user is postgres.PROJECT',
    ),
    _rule(
        ConfigurationError,
        r"(peer|ident) authentication failed",
        'on this socket the server admits user "{user}" only from a system user of the same name: '
        "name a host and a password, or run as that system user",
    ),
    _rule(
        ConfigurationError,
        r'role "[^"]*" does not exist|no such user|not permitted to log in',
        'the role "{user}" does not exist or may not log in: correct the user name, or create the role with LOGIN',
    ),
    _rule(
        ConfigurationError,
        r'database "[^"]*" does not exist|no such database',
        'the database "{database}" does not exist on this server: correct its name, or run CREATE DATABASE',
    ),
    _rule(
        ConfigurationError,
        r"permission denied for database",
        'the role "{user}" may not connect to database "{database}": run GRANT CONNECT ON DATABASE',
    ),
    _rule(
        ConfigurationError,
        r"no password supplied",
        'the server asks user "{user}" for a password: write postgresql://user:password@host/database',
    ),
    _rule(
        ConfigurationError,
        r"authentication failed",
        'the server refused the password of user "{user}" (percent-encode special characters)',
    ),
    # This must come after the rule for refused passwords: if a password is refused over TLS, libpq tries again without TLS.
    _rule(
        ConfigurationError,
        r"pg_hba\.conf.*no encryption",
        'the server admits user "{user}" to database "{database}" only with TLS, or not from this address: '
        "write sslmode=require, or add a line to its pg_hba.conf",
    ),
    _rule(
        ConfigurationError,
        r"pg_hba\.conf",
        'the server does not admit user "{user}" to database "{database}" from this address: '
        "add a line to its pg_hba.conf",
    ),
    _rule(
        ConfigurationError,
        r"SSL required|SSL connection is required",
        "the server demands TLS: write sslmode=require, verify-ca or verify-full",
    ),
    _rule(
        ConfigurationError,
        r"unsupported startup parameter",
        "the pooler does not accept the parameter options: remove it",
    ),
    _rule(
        DatabaseBusy,
        r"too many (clients|connections)|remaining connection slots|no more connections|max(imum)? client"
        r"|query_wait_timeout|unable to check out",
        "the server or its pooler has no free connection: lower --workers, close other programs, or raise its limit",
    ),
    _rule(
        DatabaseUnavailable,
        r"starting up|shutting down|in recovery mode|accepting connections(?!\s+on that socket)",
        "the server is starting or stopping; try again in a minute",
    ),
    _rule(
        DatabaseUnavailable,
        r"cannot connect to server|server login|server conn crashed|connect failed|server_login_retry",
        "the pooler does not reach its server; check that the server runs",
    ),
    _rule(
        DatabaseUnavailable,
        r"resolve host|translate host name|idna",
        'the host name "{host}" is unknown; correct it in DATABASE_URL',
    ),
    _rule(
        DatabaseUnavailable,
        r"invalid response to SSL negotiation|expected authentication request",
        "what answers at {address} is not PostgreSQL; correct host and port in DATABASE_URL",
    ),
    _rule(
        DatabaseUnavailable,
        r"unreachable|no route to host|assign requested address",
        "this network does not reach {address}; where the host has only an IPv6 address (Supabase's direct "
        "connection), use the address of the pooler in DATABASE_URL",
    ),
    _rule(
        DatabaseUnavailable,
        r"refused|no such file",
        "no server listens at {address}; start it, or correct host and port in DATABASE_URL",
    ),
    _rule(
        DatabaseUnavailable,
        r"timeout|timed out",
        "{address} did not answer in time; check host, port and firewall, and that the server runs (DATABASE_URL)",
    ),
    _rule(
        DatabaseUnavailable,
        "",
        "the connection to {address} failed; check DATABASE_URL and that the server runs",
    ),
)


def explain(error: Exception, url: SecretStr) -> AppError:
    """The error for a connection that failed: ConfigurationError if another try cannot succeed, else DatabaseUnavailable.

    The error does not contain libpq's own message, because this may quote the whole connection string.
    """
    message = str(error)
    rule = _misread(url.get_secret_value(), error) or next(rule for rule in _RULES if rule.sign.search(message))
    text = rule.text.format(**_names(url), parameter=_parameter(message))
    if rule.kind is ConfigurationError:
        return ConfigurationError(f"DATABASE_URL: {text}")
    return rule.kind(f"cannot connect to the database: {text}")


def pooler_error(message: str) -> AppError | None:
    """The error for a statement that a pooler refused (SQLSTATE 08P01); None if the message is not from a pooler."""
    rule = next(rule for rule in _RULES if rule.sign.search(message))
    if "{" in rule.text or not issubclass(rule.kind, DatabaseUnavailable):
        return None
    return rule.kind(rule.text)


def _misread(url: str, error: Exception) -> Rule | None:
    """The rule for a URL that libpq splits in the wrong place, so that host or path may contain a part of the password."""
    authority, _, rest = url.partition("://")[2].partition("/")
    path = rest if isinstance(error, psycopg.ProgrammingError) else rest.partition("?")[0]
    if authority.count("@") > 1 or "@" in path:
        return _UNENCODED
    hosts = authority.rpartition("@")[2].partition("?")[0].split(",")
    if any(host.count(":") > 1 and re.fullmatch(r"[0-9a-f:.]+", host, re.IGNORECASE) for host in hosts):
        return _BRACKETS
    return None


def _names(url: SecretStr) -> dict[str, str]:
    """The parts of the URL that a message may quote."""
    try:
        parts = conninfo_to_dict(url.get_secret_value())
    except psycopg.Error:
        parts = {}
    host, port = str(parts.get("host") or "the local socket"), str(parts.get("port") or 5432)
    user = str(parts.get("user") or "")
    # A port that is not a number may be a part of the password.
    address = f"{host}:{port}" if port.isdecimal() and not host.startswith("/") else host
    return {"user": user, "database": str(parts.get("dbname") or user), "host": host, "address": address}


def _parameter(message: str) -> str:
    """The parameter that libpq does not know, unless it could be a part of a password."""
    found = re.search(_PARAMETER, message)
    return f" {found['parameter']}" if found and re.fullmatch(r"[A-Za-z_]{1,40}", found["parameter"]) else ""

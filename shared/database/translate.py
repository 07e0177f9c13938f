"""Translates the SQLSTATE of a failed call into an error of shared/errors.py, for both database adapters."""

import re

from shared.errors import (
    AppError,
    Conflict,
    DatabaseConflict,
    DatabaseContractError,
    DatabaseError,
    DatabaseRejected,
    DatabaseTimeout,
    DatabaseUnavailable,
    Forbidden,
    NotFound,
)

# A constraint whose name contains a blank is one of ours: its name is a sentence that says which field is wrong, and why.
_CONSTRAINT = re.compile(r'violates check constraint "([^"]* [^"]*)"')
_NOT_NULL = re.compile(r'null value in column "([^"]+)"')
_OUR_FUNCTION = re.compile(r"function (public|embedding)\.(?!document_text\()")
_MIGRATE = "run scripts/migrate.py to bring the database up to date"
_TRACK = (
    "a tracked table or its embedding.document_text was changed: repair it and call track_embeddings('table_name') "
    "again, or untrack_embeddings('table_name') to stop tracking it"
)

# The longest matching prefix is used. See "PostgreSQL Error Codes", appendix A of PostgreSQL's manual.
_BY_SQLSTATE: dict[str, type[AppError]] = {
    "08": DatabaseUnavailable,
    "22": DatabaseRejected,
    "23": DatabaseRejected,
    "23505": Conflict,
    "25006": DatabaseUnavailable,
    "28": DatabaseUnavailable,
    "3D": DatabaseUnavailable,
    "3F": DatabaseContractError,
    "40": DatabaseConflict,
    "42": DatabaseContractError,
    "53": DatabaseUnavailable,
    "54": DatabaseRejected,
    "55": DatabaseRejected,
    "55P03": DatabaseTimeout,
    "57": DatabaseUnavailable,
    "57014": DatabaseTimeout,
    "58": DatabaseUnavailable,
    "P0001": DatabaseRejected,
    "P0002": NotFound,
}


def error_from_sqlstate(sqlstate: str | None, message: str, hint: str | None = None, *, function: str = "") -> AppError:
    """Build the error for a failed call from the server's primary message and its hint.

    The server's details are left out, because for a violated constraint they quote the row.
    """
    code = sqlstate or ""
    error_type = _BY_SQLSTATE.get(code) or _BY_SQLSTATE.get(code[:2]) or DatabaseError
    text = message.strip().splitlines()[0] if message.strip() else "the database failed"
    if sqlstate == "23514" and (named := _CONSTRAINT.search(text)):
        text = named[1]
    elif sqlstate == "23502" and (missing := _NOT_NULL.search(text)):
        text = f"{missing[1]} must not be null"
    if sqlstate == "42501":
        return Forbidden(
            f"{text}: the role of this connection may not do this; {_MIGRATE}, which grants it to service_role"
        )
    if error_type is DatabaseContractError:
        # A missing column belongs to the user's table, and so does a missing function that no migration adds.
        is_ours = code != "42703" and (code != "42883" or _OUR_FUNCTION.match(text))
        return DatabaseContractError(f"SQL function {function}: {text}; {_MIGRATE if is_ours else _TRACK}")
    return error_type(f"{text}. {hint}" if hint else text)

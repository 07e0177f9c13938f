"""The database adapter for Supabase: RPC over PostgREST, by the official client."""

import re
from typing import TYPE_CHECKING, Any

import httpx
from pydantic import SecretStr

from shared.database.base import Database
from shared.database.translate import error_from_sqlstate
from shared.errors import (
    AppError,
    ConfigurationError,
    DatabaseContractError,
    DatabaseError,
    DatabaseRejected,
    DatabaseTimeout,
    DatabaseUnavailable,
    Forbidden,
    Unauthorized,
)
from shared.models import Caller

if TYPE_CHECKING:
    from postgrest import APIError, SyncPostgrestClient

    from supabase import Client


class SupabaseDatabase(Database):
    """Calls SQL functions with the service role key. No repr, error or log contains the key.

    Tests and proxies pass their own `http_client`.
    """

    _client: "Client | SyncPostgrestClient"
    # Codes of answers that refuse the caller's token, and not the key of this program.
    _token_refused: tuple[str, ...] = ()

    def __init__(
        self,
        url: str,
        key: SecretStr,
        *,
        anon_key: SecretStr | None = None,
        http_client: httpx.Client | None = None,
        timeout: float = 60.0,
    ) -> None:
        if not _HEADER_SAFE.fullmatch(key.get_secret_value()):
            raise ConfigurationError(
                "SUPABASE_SERVICE_ROLE_KEY is empty or contains characters that no key has (a masked copy, a line break?); "
                "copy it from the project's API settings"
            )
        # Imported only here, because the import takes 0.2 to 0.7 s and the other adapter does not need it.
        from supabase_auth import SyncMemoryStorage

        from supabase import ClientOptions, create_client

        self._http = http_client or httpx.Client(timeout=timeout, event_hooks={"response": [_refuse_redirect]})
        options = ClientOptions(
            auto_refresh_token=False, persist_session=False, storage=SyncMemoryStorage(), httpx_client=self._http
        )
        self._url = url
        self._anon_key = anon_key
        try:
            self._client = create_client(url, key.get_secret_value(), options)
        except Exception as error:  # noqa: BLE001 - the client's own validation, whose message quotes the key
            raise ConfigurationError(
                f"SUPABASE_URL or SUPABASE_SERVICE_ROLE_KEY is not valid ({type(error).__name__}); "
                "copy both from the project's API settings"
            ) from None

    def __repr__(self) -> str:
        return "SupabaseDatabase()"

    def _call(self, function: str, arguments: dict[str, Any]) -> list[Any]:
        from postgrest import APIError

        try:
            data = self._client.rpc(function, arguments).execute().data
        except APIError as error:
            if str(error.code) in self._token_refused:
                raise Unauthorized("the token is not valid, or has expired") from None
            raise _translate(error, function) from None
        except UnicodeEncodeError:
            raise DatabaseRejected("a text contains half of a surrogate pair, which UTF-8 cannot encode") from None
        except httpx.TimeoutException:
            raise DatabaseTimeout(
                "Supabase did not answer in time; check SUPABASE_URL and the project's state"
            ) from None
        except httpx.HTTPError as error:
            raise DatabaseUnavailable(
                f"cannot reach Supabase ({type(error).__name__}); check SUPABASE_URL and that the project runs"
            ) from None
        if isinstance(data, list):
            return data
        if isinstance(data, str) and data.lstrip().startswith("<"):
            raise DatabaseError("the server answered with a web page, so it is not Supabase; check SUPABASE_URL")
        return [] if data in (None, "") else [data]

    def as_caller(self, caller: Caller) -> Database:
        if self._anon_key is None:
            raise ConfigurationError("SUPABASE_ANON_KEY: set it beside SUPABASE_URL to search as the caller")
        return _SupabaseCaller(self._url, self._anon_key, caller, self._http)

    def close(self) -> None:
        self._http.close()


class _SupabaseCaller(SupabaseDatabase):
    """Sends the caller's token with the anon key; PostgREST verifies it. It does not have the service role key."""

    # Codes of PostgREST and its gateway for a token that is unsigned, wrongly signed or expired, and for an anonymous
    # caller where anonymous access is turned off.
    _token_refused = ("PGRST301", "PGRST302", "PGRST303", "401")

    def __init__(self, url: str, anon_key: SecretStr, caller: Caller, http: httpx.Client) -> None:
        from postgrest import SyncPostgrestClient

        key = anon_key.get_secret_value()
        if caller.token and not _HEADER_SAFE.fullmatch(caller.token):
            raise Unauthorized("the token is not valid")
        self._client = SyncPostgrestClient(
            f"{url}/rest/v1",
            headers={"apikey": key, "Authorization": f"Bearer {caller.token or key}"},
            http_client=http,
        )

    def __repr__(self) -> str:
        return "SupabaseDatabase().as_caller()"

    def close(self) -> None:
        """Do nothing: the database that made this adapter owns the connections."""


def _refuse_redirect(response: httpx.Response) -> None:
    # Following a redirect would send rows and the key in the header `apikey` to the host that the answer names.
    if response.is_redirect:
        raise ConfigurationError(
            f"SUPABASE_URL: the server answers with a redirect ({response.status_code}); "
            "set the address of the project itself, with https://"
        )


_HEADER_SAFE = re.compile(r"[!-~]+")


def _translate(error: "APIError", function: str) -> AppError:
    code = str(error.code or "")
    message = error.message or ""
    if not code:
        return _gateway_error(message)
    if code == "42501":
        return Forbidden(f"{message}: check that SUPABASE_SERVICE_ROLE_KEY is the service role's key, not the anon key")
    if code == "PGRST202":
        return DatabaseContractError(
            f"SQL function {function} is missing or has other arguments; apply supabase/migrations (supabase db push)"
        )
    if code in ("PGRST301", "PGRST302", "PGRST303", "401", "403"):
        return ConfigurationError("Supabase refused the key; check SUPABASE_SERVICE_ROLE_KEY")
    if code == "PGRST003":
        return DatabaseTimeout("Supabase had no free database connection in time")
    if code.startswith("PGRST0"):
        return DatabaseUnavailable("Supabase cannot reach its database")
    if code.startswith("PGRST"):
        return DatabaseContractError(f"PostgREST refused the call of {function} ({code}); apply supabase/migrations")
    if code.isdigit() and len(code) == 3:
        # A gateway's page. Its body may contain internals, so it is not shown.
        if code >= "500":
            return DatabaseUnavailable(f"Supabase's gateway answered {code}")
        return DatabaseError(f"Supabase's gateway answered {code}; check SUPABASE_URL")
    return error_from_sqlstate(code, message, error.hint, function=function)


def _gateway_error(message: str) -> AppError:
    """Translate an answer without a code, which comes from the gateway: PostgREST and PostgreSQL always send one."""
    words = message.lower()
    if "api key" in words or "jwt" in words:
        return ConfigurationError("Supabase does not know the key; check SUPABASE_SERVICE_ROLE_KEY")
    if "route" in words or "not found" in words:
        return DatabaseError("Supabase's gateway has no such route; check SUPABASE_URL")
    return DatabaseUnavailable("Supabase's gateway refused the call; check the project's state")

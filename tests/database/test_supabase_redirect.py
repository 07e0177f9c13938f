"""Tests a project URL that redirects: neither rows nor keys may be sent to the target."""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr

from shared.database.supabase import SupabaseDatabase
from shared.errors import ConfigurationError
from shared.models import ANON


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("to", ["/rest/v1/rpc/ping?token=of-the-proxy", None])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_an_error_and_nothing_is_sent_to_its_target(status: int, to: str | None) -> None:
    seen: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None: ...

    with serving(Elsewhere) as elsewhere:

        class Redirecting(Elsewhere):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(status)
                if to:
                    self.send_header("Location", elsewhere + to)
                self.end_headers()

        key = secrets.token_urlsafe(24)
        with serving(Redirecting) as url:
            database = SupabaseDatabase(url, SecretStr(key), anon_key=SecretStr(key))
            for asked in (database, database.as_caller(ANON)):
                with pytest.raises(ConfigurationError, match=rf"SUPABASE_URL: .* redirect \({status}\)") as caught:
                    asked.call("ping", {"of": "a row"})
                assert "of-the-proxy" not in caught.value.message
            database.close()
    assert seen == []

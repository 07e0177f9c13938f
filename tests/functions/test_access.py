"""Tests which caller may call which route: every route with every kind of key."""

import base64
import hmac
import time

import httpx
import jwt
import pytest
from pydantic import SecretStr

from tests.functions.conftest import API_KEY, JWT_SECRET, SERVICE_KEY, WEBHOOK_SECRET, Serve, token

EMBED = {"batch_id": "b", "chunks": [{"chunk_id": "c", "content": "a text"}]}
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"

# method, path, body, and the statuses by caller:
# no key, API key, wrong key, anon token, user token, expired token, forged token, service key, webhook secret
OPEN = (200, 200, 200, 200, 200, 200, 200, 200, 200)
SEARCH = (200, 200, 401, 200, 200, 401, 401, 403, 401)
HOOK = (401, 401, 401, 401, 401, 401, 401, 401, 200)


def keyed(status: int) -> tuple[int, ...]:
    return (401, status, 401, 401, 401, 401, 401, 401, 401)


ROUTES = [
    ("GET", "/health", None, OPEN),
    ("GET", "/ready", None, OPEN),
    ("GET", "/openapi.json", None, OPEN),
    ("POST", "/embed", EMBED, keyed(200)),
    ("POST", "/api/vectorization/embed", {"text": "a text"}, keyed(200)),
    ("GET", "/api/vectorization/status", None, keyed(200)),
    ("POST", "/v1/embeddings", {"model": "fake", "input": "a text"}, keyed(200)),
    ("GET", "/v1/models", None, keyed(200)),
    ("GET", "/v1/models/fake", None, keyed(200)),
    ("POST", "/api/upsert-embeddings", {"rows": [{"id": UNKNOWN_ID}]}, keyed(200)),
    ("POST", "/api/search/music_knowledge", {"query": "a"}, SEARCH),
    ("GET", "/api/search/music_knowledge?q=a", None, SEARCH),
    (
        "POST",
        "/api/webhooks/embeddings",
        {"type": "DELETE", "table": "music_knowledge", "schema": "public", "record": None},
        HOOK,
    ),
    ("POST", "/api/tasks/generate-embeddings", {}, keyed(202)),
    ("GET", f"/api/tasks/{UNKNOWN_ID}", None, keyed(404)),
    ("GET", "/", None, OPEN),
    ("GET", "/console/icon.svg", None, OPEN),
    ("GET", "/api/console", None, OPEN),
    ("GET", "/api/collections", None, keyed(200)),
    ("GET", "/api/collections/music_knowledge/failures", None, keyed(200)),
    ("POST", "/api/collections/music_knowledge/retry", {}, keyed(200)),
    ("GET", "/api/collections/music_knowledge/estimate", None, keyed(200)),
    ("GET", "/api/collections/music_knowledge/map", None, keyed(200)),
    ("GET", "/api/runs", None, keyed(200)),
    ("GET", "/api/costs", None, keyed(200)),
    ("GET", "/metrics", None, keyed(200)),
]
FORGED = "x" * 48


def callers() -> list[tuple[str, str | None]]:
    return [
        ("no key", None),
        ("API key", API_KEY),
        ("wrong key", "wrong"),
        ("anon token", token("anon")),
        ("user token", token(sub=UNKNOWN_ID)),
        ("expired token", token(exp=1_700_000_000)),
        ("forged token", token(secret=FORGED)),
        ("service key", SERVICE_KEY),
        ("webhook secret", WEBHOOK_SECRET),
    ]


def ask(client: httpx.Client, method: str, path: str, body: object, key: str | None) -> httpx.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return client.request(method, path, json=body, headers=headers)


def test_every_route_answers_exactly_those_who_may_call_it(each_adapter: httpx.Client) -> None:
    wrong = []
    for method, path, body, statuses in ROUTES:
        for (who, key), expected in zip(callers(), statuses, strict=True):
            status = ask(each_adapter, method, path, body, key).status_code
            if status != expected:
                wrong.append(f"{method} {path} with {who}: {status}, not {expected}")
    assert not wrong, "\n".join(wrong)


def test_the_table_of_routes_is_complete(client: httpx.Client) -> None:
    documented = {
        (method.upper(), path)
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        for method in methods
        # A separate table tests them.
        if "synonyms" not in path
    }
    tested = {(method, path.partition("?")[0]) for method, path, _, _ in ROUTES} - {("GET", "/openapi.json")}
    concrete = {
        ("music_knowledge", "{collection}"),
        (UNKNOWN_ID, "{task_id}"),
        ("icon.svg", "{name}"),
        ("fake", "{model}"),
    }
    for value, name in concrete:
        tested = {(method, path.replace(value, name)) for method, path in tested}
    assert documented == tested


def test_a_server_without_a_key_accepts_writes_only_on_loopback(serve: Serve) -> None:
    closed = serve(functions_api_key=None, webhook_secret=None)
    local = serve(functions_api_key=None, webhook_secret=None, loopback=True)
    for method, path, body, statuses in ROUTES:
        expected = max(status for status in statuses if status not in (401, 403))
        if statuses not in (OPEN, SEARCH):
            assert ask(closed, method, path, body, None).status_code == 401, path
        assert ask(local, method, path, body, None).status_code == expected, path
    refused = closed.post("/embed", json=EMBED)
    assert "FUNCTIONS_API_KEY" in refused.json()["error"]["message"]


def test_a_webhook_secret_is_asked_for_even_on_a_loopback_server(serve: Serve) -> None:
    local = serve(functions_api_key=None, loopback=True)
    body = {"type": "DELETE", "table": "music_knowledge", "schema": "public"}
    assert local.post("/api/webhooks/embeddings", json=body).status_code == 401
    accepted = local.post("/api/webhooks/embeddings", json=body, headers={"x-webhook-secret": WEBHOOK_SECRET})
    assert accepted.status_code == 200


def test_an_unauthorized_answer_names_the_required_scheme(client: httpx.Client) -> None:
    refused = client.post("/embed", json=EMBED)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert set(refused.json()["error"]) == {"code", "message", "request_id"}


@pytest.mark.parametrize("header", ["Basic abc", "Bearer", "nonsense"])
def test_an_unknown_authorization_scheme_is_refused(client: httpx.Client, header: str) -> None:
    answer = client.get("/api/search/music_knowledge?q=a", headers={"Authorization": header})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"exp": None}, 401),
        ({"exp": "soon"}, 401),
        ({"role": None}, 401),
        ({"role": "postgres"}, 403),
        ({"role": "authenticator"}, 403),
        ({"role": ["anon"]}, 403),
        ({"nbf": 4_000_000_000}, 401),
        ({"aud": "authenticated"}, 200),
    ],
)
def test_a_token_must_expire_and_name_a_role_that_searches(
    client: httpx.Client, claims: dict[str, object], expected: int
) -> None:
    given = {"role": "authenticated", "exp": int(time.time()) + 60, **claims}
    signed = jwt.encode({name: value for name, value in given.items() if value is not None}, JWT_SECRET, "HS256")
    answer = client.get("/api/search/music_knowledge?q=a", headers={"Authorization": f"Bearer {signed}"})
    assert answer.status_code == expected


@pytest.mark.parametrize("algorithm", ["none", "HS512"])
def test_a_token_cannot_choose_its_algorithm(client: httpx.Client, algorithm: str) -> None:
    claims = {"role": "authenticated", "exp": int(time.time()) + 60}
    signed = jwt.encode(claims, None if algorithm == "none" else JWT_SECRET, algorithm)
    answer = client.get("/api/search/music_knowledge?q=a", headers={"Authorization": f"Bearer {signed}"})
    assert answer.status_code == 401


# Requests with the caller's rights: the answers of two are cached, and one is not.
READ = [
    ("POST", "/api/mir/synonyms/search", {"query": "bolero"}),
    ("GET", "/api/synonyms/search?q=bolero", None),
    ("GET", "/api/synonyms/genre/bolero", None),
    ("POST", "/api/search/music_knowledge", {"query": "bolero"}),
]


def test_a_forged_token_gets_no_cached_answer(each_adapter: httpx.Client) -> None:
    claims = {"role": "authenticated", "sub": UNKNOWN_ID, "exp": int(time.time()) + 600}
    valid = jwt.encode(claims, JWT_SECRET, "HS256")
    forged = [jwt.encode(claims, FORGED, "HS256"), jwt.encode(claims, None, "none")]
    for route in READ:
        before = [ask(each_adapter, *route, key).status_code for key in forged]
        earned = ask(each_adapter, *route, valid).status_code
        again = ask(each_adapter, *route, valid)
        after = [ask(each_adapter, *route, key).status_code for key in forged]
        assert (before, after) == ([401, 401], [401, 401]), route
        assert earned == again.status_code in (200, 404), route
        assert again.json().get("cached", True), f"{route}: nothing was cached, so nothing was tested"


# All of these are valid JSON.
CLAIMS = {
    "2**70": '"x":1180591620717411303424',
    "4,001 digits": f'"x":1{"0" * 4000}',
    "half of a surrogate pair": '"x":"\\ud800"',
    "half of one as a name": '"\\udfff":1',
    "8,000 lists": f'"x":{"[" * 8000}{"]" * 8000}',
    "300 lists": f'"x":{"[" * 300}{"]" * 300}',
    "an endless time": '"exp":1e999',
    "a time that is half of a pair": '"exp":"\\ud800"',
}


def sign(payload: str, key: str) -> str:
    """A token with exactly this payload."""

    def encode(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    header = b'{"alg":"HS256","typ":"JWT"}'
    content = f"{encode(header)}.{encode(payload.encode())}"
    return f"{content}.{encode(hmac.digest(key.encode(), content.encode(), 'sha256'))}"


def test_a_token_with_claims_that_json_cannot_contain_is_refused(each_adapter: httpx.Client) -> None:
    wrong = []
    for name, claim in CLAIMS.items():
        time_given = "" if claim.startswith('"exp"') else '"exp":4000000000,'
        payload = f'{{"role":"authenticated",{time_given}{claim}}}'
        for signed, key in (("signed", JWT_SECRET), ("forged", FORGED)):
            for method, path, body in READ:
                status = ask(each_adapter, method, path, body, sign(payload, key)).status_code
                if status != 401:
                    wrong.append(f"{method} {path} with {name}, {signed}: {status}")
    assert not wrong, "\n".join(wrong)


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from shared import tokens

    compared: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, secret: bytes) -> bool:
        compared.append((given, secret))
        return hmac.compare_digest(given, secret)

    class Hmac:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(tokens, "hmac", Hmac)
    assert tokens.matches("key", SecretStr("key"))
    assert not tokens.matches("kez", SecretStr("key"))
    assert not tokens.matches("\udcff", SecretStr("key")), "every valid header is accepted"
    assert not tokens.matches("", None)
    assert compared == [(b"key", b"key"), (b"kez", b"key"), (b"\xed\xb3\xbf", b"key")]


def test_without_a_jwt_secret_every_token_is_refused(serve: Serve) -> None:
    client = serve(supabase_jwt_secret=None)
    answer = client.get("/api/search/music_knowledge?q=a", headers={"Authorization": f"Bearer {token()}"})
    assert answer.status_code == 401
    assert "SUPABASE_JWT_SECRET" in answer.json()["error"]["message"]
    assert client.get("/api/search/music_knowledge?q=a").status_code == 200

"""Drills with a faulty embedding provider: a table of faults and their expected outcomes."""

import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.certificates import write_certificate
from tests.drills.audit import audit
from tests.drills.harness import Finding, FunctionsServer, Gate, Length, Program, Site, open_site
from tests.postgres_cluster import Cluster
from tests.protocol_server import ProtocolServer

ROWS = 40
STEPS = ("--batch-size", "10", "--workers", "2", "--json")
# The number of cases that run at the same time, because they mostly wait.
SIDE_BY_SIDE = 3
PREFIX = {"openai": "", "ollama": "search_document: "}
WIDTHS = {"openai": 32, "ollama": 768}
PATHS = {"openai": "/v1/embeddings", "ollama": "/api/embed"}
SETTINGS = {"openai": "OPENAI_BASE_URL", "ollama": "OLLAMA_URL"}


@dataclass(frozen=True)
class Case:
    """A fault and its outcome: exit code, embedded rows, text of the error line, most calls, forbidden text.

    `length` is the shortest form of the drill that includes the case.
    """

    fault: str
    arrange: Callable[[ProtocolServer], object]
    code: int
    embedded: int
    says: tuple[str, ...] = ()
    most_calls: int = 100
    provider: str = "openai"
    length: Length = Length.SHORT
    never: tuple[str, ...] = ()


def _fails(kind: str, **options: object) -> Callable[[ProtocolServer], object]:
    return lambda server: server.fail(kind, **options)  # type: ignore[arg-type]


def _points_elsewhere(status: int) -> Callable[[ProtocolServer], object]:
    """Redirect to another name of the same server, so that the server would count requests to it."""
    return lambda server: server.fail(
        "redirect",
        times=None,
        status=status,
        to=f"{server.url.replace('127.0.0.1', 'localhost')}/elsewhere?token=hidden",
    )


ALWAYS = {"times": None}
CASES = (
    # Temporary: the run continues.
    Case("connection reset, 3 times", _fails("reset", times=3), 0, 40),
    Case("half an answer, 3 times", _fails("half", times=3), 0, 40),
    Case("an answer nested 100,000 deep, 3 times", _fails("deep", times=3), 0, 40),
    Case("HTTP 500, 3 times", _fails("status", times=3), 0, 40, length=Length.FULL),
    Case("an HTML page with 502, 3 times", _fails("html", times=3), 0, 40, length=Length.FULL),
    Case("429 to every second call", _fails("rate_limit", times=8, every=2, retry_after=0.5), 0, 40),
    Case(
        "429 with a date, twice", _fails("rate_limit", times=2, retry_after=1, as_date=True), 0, 40, length=Length.FULL
    ),
    Case("429 without Retry-After, 4 times", _fails("rate_limit", times=4), 0, 40, length=Length.FULL),
    Case("answers out of order", _fails("shuffled", **ALWAYS), 0, 40),
    # A server that gives every vector the index 0 answers in the order of the texts.
    Case("answers without numbers", _fails("unnumbered", **ALWAYS), 0, 40, length=Length.FULL),
    Case("answers after 3 s", _fails("slow", times=4, seconds=3), 0, 40, length=Length.FULL),
    Case("no answer for 70 s, once", _fails("slow", times=1, seconds=70), 0, 40, length=Length.FULL),
    Case("an answer byte by byte, for minutes", _fails("dribble", times=1, seconds=1), 0, 40, length=Length.FULL),
    # Errors of one text: its row is failed, the others are embedded.
    Case(
        "one text refused",
        _fails("poison", containing="row 7 ", **ALWAYS),
        1,
        39,
        ("the input is not acceptable",),
    ),
    Case(
        "NaN for one text",
        _fails("nan", containing="row 7 ", **ALWAYS),
        1,
        39,
        ("tried again by a later run",),
    ),
    Case(
        "no vector for one text",
        _fails("null_row", containing="row 7 ", **ALWAYS),
        1,
        39,
        ("tried again",),
        length=Length.FULL,
    ),
    # Final errors: one line, no row is failed, and no retries.
    Case(
        "no quota left",
        _fails("quota", **ALWAYS),
        1,
        0,
        ("quota", "billing"),
        most_calls=4,
    ),
    Case(
        "vectors of another width",
        _fails("wrong_width", **ALWAYS),
        2,
        0,
        ("31", "32"),
        most_calls=4,
    ),
    Case("a vector too few, always", _fails("short", **ALWAYS), 1, 0, ("vectors",)),
    Case("an answer without end", _fails("endless", **ALWAYS), 1, 0, ("OPENAI_BASE_URL",), length=Length.FULL),
    Case("NaN for every text", _fails("all_nan", **ALWAYS), 1, 0, ("not finite",), length=Length.FULL),
    Case(
        "HTTP 403", _fails("status", status=403, **ALWAYS), 2, 0, ("OPENAI_API_KEY",), most_calls=4, length=Length.FULL
    ),
    Case(
        "HTTP 503 for good", _fails("status", status=503, **ALWAYS), 1, 0, ("503",), most_calls=40, length=Length.FULL
    ),
    Case("reset for good", _fails("reset", **ALWAYS), 1, 0, ("cannot reach",), most_calls=40, length=Length.FULL),
    Case(
        "nested 100,000 deep for good",
        _fails("deep", **ALWAYS),
        1,
        0,
        ("OPENAI_BASE_URL",),
        most_calls=40,
        length=Length.FULL,
    ),
    Case(
        "a redirect to another host",
        _points_elsewhere(307),
        2,
        0,
        ("localhost", "OPENAI_BASE_URL"),
        most_calls=4,
        never=("hidden", "elsewhere"),
    ),
    Case("429 for good", _fails("rate_limit", **ALWAYS), 1, 0, ("slow down",), most_calls=40, length=Length.FULL),
    # The other protocol.
    Case("Ollama: half an answer, 3 times", _fails("half", times=3), 0, 40, provider="ollama"),
    Case("Ollama: an HTML page, 3 times", _fails("html", times=3), 0, 40, provider="ollama", length=Length.FULL),
    Case("Ollama: nested 100,000 deep, 3 times", _fails("deep", times=3), 0, 40, provider="ollama", length=Length.FULL),
    Case(
        "Ollama: a redirect to another host",
        _points_elsewhere(308),
        2,
        0,
        ("localhost", "OLLAMA_URL"),
        most_calls=4,
        provider="ollama",
        never=("hidden", "elsewhere"),
    ),
    Case("Ollama: reset, 3 times", _fails("reset", times=3), 0, 40, provider="ollama", length=Length.FULL),
    Case(
        "Ollama: 500 for a NaN",
        _fails("nan_refused", containing="row 7 ", **ALWAYS),
        1,
        39,
        provider="ollama",
    ),
    Case(
        "Ollama: another width", _fails("wrong_width", **ALWAYS), 2, 0, ("767", "768"), provider="ollama", most_calls=4
    ),
)


def fail_in_every_way(cluster: Cluster, length: Length) -> Finding:
    """Run every case of the table on a new database; afterwards the provider works again and a run completes."""
    finding = Finding()
    cases = [case for case in CASES if case.length <= length]
    with open_site(cluster):
        pass  # Opening the first database migrates it; the databases of the cases are clones of it.
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for problems in pool.map(lambda case: _run(cluster, case), cases):
            finding.problems += problems
    by_code = {code: sum(case.code == code for case in cases) for code in (0, 1, 2)}
    finding.done = f"{len(cases)} faults: " + "; ".join(case.fault for case in cases)
    finding.found = (
        f"{by_code[0]} runs waited and embedded all rows (exit code 0), {by_code[1]} left rows (1), {by_code[2]} named"
        " the setting in one line (2); when the provider worked again, all rows were embedded"
    )
    return finding


def _run(cluster: Cluster, case: Case) -> list[str]:
    finding = Finding()
    with open_site(cluster, ROWS) as site, ProtocolServer() as server:
        case.arrange(server)
        _judge(finding, site, server, case)
        server.faults.clear()
        if case.code:
            with site.connect() as owner:
                # End the wait of rows that are tried again.
                owner.execute("update embedding.queue set available_at = now() where failed_at is null")
            again = site.backfill(server, *STEPS, "--retry-failed", **_provider(case.provider))
            code = again.finish(120)
            finding.expect(code == 0, f"with the provider working again the run exits {code}: {again.stderr[-200:]}")
        audit(site, ROWS, prefix=PREFIX[case.provider], width=WIDTHS[case.provider]).judge(finding)
    return [f"{case.fault}: {problem}" for problem in finding.problems]


def _provider(name: str) -> dict[str, str]:
    return {
        "EMBEDDING_PROVIDER": name,
        **({"EMBEDDING_DIMENSIONS": "<unset>"} if name == "ollama" else {}),
    }


def _judge(finding: Finding, site: Site, server: ProtocolServer, case: Case) -> None:
    program = site.backfill(server, *STEPS, **_provider(case.provider))
    code = program.finish(280)
    embedded = site.ask("select count(embedding) from music_knowledge")
    stderr = program.stderr.strip()
    finding.expect(code == case.code, f"exit {code}, not {case.code}: {stderr[-300:]}")
    finding.expect(embedded == case.embedded, f"{embedded} rows embedded, not {case.embedded}")
    finding.expect("Traceback" not in stderr, f"a traceback: {stderr[-300:]}")
    whole = case.code and not case.embedded
    finding.expect(len(program.errors) == (1 if whole else 0), f"not one line: {stderr[-300:]}")
    finding.expect(not server.too_soon, f"{server.too_soon} calls came before the Retry-After had passed")
    finding.expect(len(server.calls) <= case.most_calls, f"{len(server.calls)} calls, more than {case.most_calls}")
    elsewhere = [call.path for call in server.calls if call.path != PATHS[case.provider]]
    finding.expect(not elsewhere, f"{len(elsewhere)} calls were redirected to {elsewhere[:1]}")
    open_runs = site.ask("select count(*) from embedding.runs where finished_at is null")
    finding.expect(open_runs == 0, f"{open_runs} runs are still recorded as running")
    for part in case.says:
        finding.expect(part in stderr, f"it does not say {part!r}: {stderr[-300:]}")
    for part in case.never:
        finding.expect(part not in stderr, f"it says {part!r}: {stderr[-300:]}")
    if whole:
        blamed = site.ask("select count(*) from embedding.queue where failed_at is not null or attempts > 1")
        finding.expect(blamed == 0, f"{blamed} rows are failed by an error of the provider")


# The functions


def search_while_it_fails(cluster: Cluster, length: Length) -> Finding:
    """With a failing provider a search returns full-text hits and `degraded`; semantic hits return with the provider."""
    del length
    kinds = {
        "reset": "a connection reset",
        "half": "half an answer",
        "html": "an HTML page",
        "deep": "an answer nested 100,000 deep",
        "quota": "no quota left",
        "short": "a vector too few",
        "wrong_width": "vectors of another width",
        "all_nan": "NaN for every text",
        "redirect": "a redirect",
    }
    finding = Finding(
        f"the provider failed while the HTTP server ran (python -m functions.local): {', '.join(kinds.values())}"
    )
    with open_site(cluster, ROWS) as site, Gate() as provider:
        first = site.backfill(provider, "--json").finish(60)
        finding.expect(first == 0, f"the backfill exits {first}")
        with FunctionsServer(site, provider) as functions:
            for kind, fault in kinds.items():
                struck = provider.fail(kind, times=None, to="http://localhost/")
                _expect_search(finding, functions, f"row in key {kind}", degraded=True, when=f"with {fault}")
                finding.expect(struck.seen, f"{fault}: the provider was not called, so the drill tested nothing")
                provider.faults.clear()
                _expect_search(finding, functions, f"row in key after {kind}", degraded=False, when=f"after {fault}")
    finding.found = (
        f"{len(kinds)} searches answered 200 with full-text hits and `degraded`; each next search, with a working provider,"
        " was not degraded"
    )
    return finding


def _expect_search(finding: Finding, functions: FunctionsServer, query: str, *, degraded: bool, when: str) -> None:
    answer = functions.search(query)
    if answer.status_code != 200:
        finding.expect(False, f"{when}: a search is answered {answer.status_code}: {answer.text[:200]}")
        return
    body = answer.json()
    finding.expect(body["degraded"] is degraded, f"{when}: a search says degraded: {body['degraded']}")
    finding.expect(body["hits"], f"{when}: a search finds nothing")


# Certificates that are not trusted


@dataclass(frozen=True)
class Certificate:
    """A certificate for `host`, valid from `since` to `until` days from now."""

    fault: str
    host: str = "127.0.0.1"
    since: int = -1
    until: int = 1


SELF_SIGNED = Certificate("self-signed")
# A trusted authority has signed these two.
CERTIFICATES = (Certificate("for another host", host="127.0.0.9"), Certificate("expired", since=-9, until=-2))


def bad_tls(cluster: Cluster, length: Length) -> Finding:
    """An untrusted certificate is refused at once with an error of one line, and no text is sent."""
    del length
    finding = Finding(
        "the provider's certificate was self-signed, for another host, or expired; with OpenAI and with Ollama"
    )
    for provider, width in WIDTHS.items():
        with open_site(cluster, ROWS) as site:
            with _tls_server(site.folder, SELF_SIGNED) as (server, certificate):
                _is_not_trusted(finding, site, server, provider, SELF_SIGNED, {})
            for one in CERTIFICATES:
                with _tls_server(site.folder, one) as (server, certificate):
                    _is_not_trusted(finding, site, server, provider, one, {"SSL_CERT_FILE": str(certificate)})
            with _tls_server(site.folder, SELF_SIGNED) as (server, certificate):
                trusted = _backfill_over_tls(site, server, provider, {"SSL_CERT_FILE": str(certificate)})
                code = trusted.finish(60)
                finding.expect(code == 0, f"{provider}: with SSL_CERT_FILE it exits {code}: {trusted.stderr[-300:]}")
                finding.expect(server.calls, f"{provider}: the trusted server was not called")
            audit(site, ROWS, prefix=PREFIX[provider], width=width).judge(finding)
    finding.found = (
        "each run ended with exit code 2 and one line, and sent no text; with SSL_CERT_FILE, as the line advises,"
        " a run accepted the self-signed certificate (exit code 0)"
    )
    return finding


def _is_not_trusted(
    finding: Finding,
    site: Site,
    server: ProtocolServer,
    provider: str,
    certificate: Certificate,
    trust: dict[str, str],
) -> None:
    program = _backfill_over_tls(site, server, provider, trust)
    code = program.finish(60)
    what = f"{provider}, {certificate.fault}"
    finding.expect(code == 2, f"{what}: exit {code}, not 2: {program.stderr[-300:]}")
    finding.expect(len(program.errors) == 1, f"{what}: not one line: {program.stderr[-300:]}")
    for word in ("certificate", "SSL_CERT_FILE", SETTINGS[provider]):
        finding.expect(word in program.stderr, f"{what}: it does not say {word!r}: {program.stderr[-300:]}")
    finding.expect(not server.calls, f"{what}: a request was sent to a server that was not trusted")


def _backfill_over_tls(site: Site, server: ProtocolServer, provider: str, trust: dict[str, str]) -> Program:
    url = (server.openai_url if provider == "openai" else server.url).replace("http:", "https:")
    return site.backfill(None, *STEPS, **{**_provider(provider), SETTINGS[provider]: url, **trust})


@contextmanager
def _tls_server(folder: Path, certificate: Certificate) -> Iterator[tuple[ProtocolServer, Path]]:
    shown, key = write_certificate(folder, certificate.host, since=certificate.since, until=certificate.until)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown, key)
    server = ProtocolServer()
    server.wrap(context)
    with server:
        yield server, shown

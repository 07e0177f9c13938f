"""The embedding provider fails, lies or is not who it says: a table of faults, and of what has to come of each."""

import datetime
import ipaddress
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.drills.harness import Finding, Length, Site, audit, open_site
from tests.postgres_cluster import Cluster
from tests.protocol_server import ProtocolServer

ROWS = 40
STEPS = ("--batch-size", "10", "--workers", "2", "--json")
# Cases that wait for most of their time share the machine.
SIDE_BY_SIDE = 3
PREFIX = {"openai": "", "ollama": "search_document: "}
WIDTHS = {"openai": 32, "ollama": 768}


@dataclass(frozen=True)
class Case:
    """A fault and its outcome: exit code, rows embedded, what the one line names, calls at most.

    `length`: the shortest form of the drill that has it.
    """

    fault: str
    arrange: Callable[[ProtocolServer], object]
    code: int
    embedded: int
    says: tuple[str, ...] = ()
    most_calls: int = 100
    provider: str = "openai"
    length: Length = Length.FULL


def _fails(kind: str, **options: object) -> Callable[[ProtocolServer], object]:
    return lambda server: server.fail(kind, **options)  # type: ignore[arg-type]


ALWAYS = {"times": None}
CASES = (
    # Passing: the run goes on.
    Case("connection reset, 3 times", _fails("reset", times=3), 0, 40, length=Length.SHORT),
    Case("half an answer, 3 times", _fails("half", times=3), 0, 40),
    Case("HTTP 500, 3 times", _fails("status", times=3), 0, 40),
    Case("an HTML page with 502, 3 times", _fails("html", times=3), 0, 40),
    Case(
        "429 to every second call", _fails("rate_limit", times=8, every=2, retry_after=0.5), 0, 40, length=Length.SHORT
    ),
    Case("429 with a date, twice", _fails("rate_limit", times=2, retry_after=1, as_date=True), 0, 40),
    Case("429 that says nothing, 4 times", _fails("rate_limit", times=4), 0, 40),
    Case("answers out of order", _fails("shuffled", **ALWAYS), 0, 40),
    # Asked for one text at a time, such a server can be understood.
    Case("answers without numbers", _fails("unnumbered", **ALWAYS), 0, 40),
    Case("answers after 3 s", _fails("slow", times=4, seconds=3), 0, 40),
    Case("no answer for 70 s, once", _fails("slow", times=1, seconds=70), 0, 40),
    Case("an answer byte by byte, for minutes", _fails("dribble", times=1, seconds=1), 0, 40),
    # About one text: its row is parked, the others are embedded.
    Case("one text refused", _fails("poison", containing="row 7 ", **ALWAYS), 1, 39, ("the input is not acceptable",)),
    Case("NaN for one text", _fails("nan", containing="row 7 ", **ALWAYS), 1, 39, ("tried again by a later run",)),
    Case("no vector for one text", _fails("null_row", containing="row 7 ", **ALWAYS), 1, 39, ("tried again",)),
    # Final: one line, no row blamed, nothing asked again and again.
    Case(
        "no quota left",
        _fails("quota", **ALWAYS),
        1,
        0,
        ("quota", "billing"),
        most_calls=4,
        length=Length.SHORT,
    ),
    Case(
        "vectors of another width",
        _fails("wrong_width", **ALWAYS),
        2,
        0,
        ("31", "32"),
        most_calls=4,
        length=Length.SHORT,
    ),
    Case("a vector too few, always", _fails("short", **ALWAYS), 1, 0, ("vectors",)),
    Case("an answer without end", _fails("endless", **ALWAYS), 1, 0, ("OPENAI_BASE_URL",)),
    Case("NaN for every text", _fails("all_nan", **ALWAYS), 1, 0, ("not finite",)),
    Case("HTTP 403", _fails("status", status=403, **ALWAYS), 2, 0, ("OPENAI_API_KEY",), most_calls=4),
    Case("HTTP 503 for good", _fails("status", status=503, **ALWAYS), 1, 0, ("503",), most_calls=40),
    Case("reset for good", _fails("reset", **ALWAYS), 1, 0, ("cannot reach",), most_calls=40),
    Case("429 for good", _fails("rate_limit", **ALWAYS), 1, 0, ("slow down",), most_calls=40),
    # The other protocol.
    Case("Ollama: half an answer, 3 times", _fails("half", times=3), 0, 40, provider="ollama"),
    Case("Ollama: an HTML page, 3 times", _fails("html", times=3), 0, 40, provider="ollama"),
    Case("Ollama: reset, 3 times", _fails("reset", times=3), 0, 40, provider="ollama"),
    Case("Ollama: 500 for a NaN", _fails("nan_refused", containing="row 7 ", **ALWAYS), 1, 39, provider="ollama"),
    Case(
        "Ollama: another width", _fails("wrong_width", **ALWAYS), 2, 0, ("767", "768"), provider="ollama", most_calls=4
    ),
)


def fail_in_every_way(cluster: Cluster, length: Length) -> Finding:
    """Every case of the table on a database of its own; afterwards the provider is well and a run completes."""
    finding = Finding()
    cases = [case for case in CASES if case.length <= length]
    with open_site(cluster):
        pass  # The first one migrates; the others are clones.
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for problems in pool.map(lambda case: _run(cluster, case), cases):
            finding.problems += problems
    by_code = {code: sum(case.code == code for case in cases) for code in (0, 1, 2)}
    finding.done = f"{len(cases)} faults: " + "; ".join(case.fault for case in cases)
    finding.found = (
        f"as the table says: {by_code[0]} waited out (exit 0), {by_code[1]} ended in one line with what is left (1),"
        f" {by_code[2]} in one line that names the setting (2); all rows embedded once the provider was well"
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
                # As if the pause of what will be tried again had passed.
                owner.execute("update embedding.queue set available_at = now() where failed_at is null")
            again = site.backfill(server, *STEPS, "--retry-failed", **_provider(case))
            code = again.finish(120)
            finding.expect(code == 0, f"with the provider well again the run exits {code}: {again.stderr[-200:]}")
        audit(site, ROWS, prefix=PREFIX[case.provider], width=WIDTHS[case.provider]).judge(finding)
    return [f"{case.fault}: {problem}" for problem in finding.problems]


def _provider(case: Case) -> dict[str, str]:
    return {
        "EMBEDDING_PROVIDER": case.provider,
        **({"EMBEDDING_DIMENSIONS": "<unset>"} if case.provider == "ollama" else {}),
    }


def _judge(finding: Finding, site: Site, server: ProtocolServer, case: Case) -> None:
    program = site.backfill(server, *STEPS, **_provider(case))
    code = program.finish(280)
    embedded = site.ask("select count(embedding) from music_knowledge")
    told = program.stderr.strip()
    finding.expect(code == case.code, f"exit {code}, not {case.code}: {told[-300:]}")
    finding.expect(embedded == case.embedded, f"{embedded} rows embedded, not {case.embedded}")
    finding.expect("Traceback" not in told, f"a traceback: {told[-300:]}")
    whole = case.code and not case.embedded
    finding.expect(len(program.errors) == (1 if whole else 0), f"not one line: {told[-300:]}")
    finding.expect(not server.too_soon, f"{server.too_soon} calls came before the time it had been told")
    finding.expect(len(server.calls) <= case.most_calls, f"{len(server.calls)} calls, more than {case.most_calls}")
    for part in case.says:
        finding.expect(part in told, f"it does not say {part!r}: {told[-300:]}")
    if whole:
        parked = site.ask("select count(*) from embedding.queue where failed_at is not null or attempts > 1")
        finding.expect(parked == 0, f"{parked} rows are blamed for what is not their fault")


# Who answers is not who it should be


def bad_tls(cluster: Cluster, length: Length) -> Finding:
    """A certificate that nobody trusts: refused at once, in one line, and nothing of a row is sent."""
    del length
    finding = Finding("a TLS server with a certificate that it signed itself")
    with open_site(cluster, ROWS) as site, _self_signed(site.folder) as (server, certificate):
        url = server.openai_url.replace("http:", "https:")
        program = site.backfill(None, *STEPS, OPENAI_BASE_URL=url)
        code = program.finish(60)
        finding.expect(code == 2, f"exit {code}, not 2: {program.stderr[-300:]}")
        finding.expect(len(program.errors) == 1, f"not one line: {program.stderr[-300:]}")
        finding.expect("certificate" in program.stderr and "SSL_CERT_FILE" in program.stderr, program.stderr[-300:])
        finding.expect(not server.calls, "a request was sent to a server that was not trusted")
        trusted = site.backfill(None, *STEPS, OPENAI_BASE_URL=url, SSL_CERT_FILE=str(certificate))
        trusted_code = trusted.finish(60)
        finding.expect(trusted_code == 0, f"with SSL_CERT_FILE it exits {trusted_code}: {trusted.stderr[-300:]}")
        audit(site, ROWS).judge(finding)
    finding.found = f"exit {code} in one line, nothing sent; with SSL_CERT_FILE, as the line says, exit {trusted_code}"
    return finding


@contextmanager
def _self_signed(folder: Path) -> Iterator[tuple[ProtocolServer, Path]]:
    certificate, key = _make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ProtocolServer()
    server.wrap(context)
    with server:
        yield server, certificate


def _make_certificate(folder: Path) -> tuple[Path, Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "certificate.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths

"""Fixtures: a database like a new one of Supabase, and the Supabase CLI for it."""

import os
import shutil
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from shared.embedded.migrations import PROJECT
from tests.conftest import missing_tool
from tests.postgres_cluster import Cluster, make_directory, remove

CLI = PROJECT / ".tools" / "supabase" / "node_modules" / ".bin" / "supabase"
# The role with which the CLI connects: the owner of a project's database. It is not a superuser.
OWNER = "builder"


@dataclass(frozen=True)
class Hosted:
    """A database with two URLs: one for psycopg and one for the CLI."""

    url: SecretStr
    tcp: str


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Cluster, int]]:
    """A separate server, with a port, because the CLI cannot use a unix socket."""
    directory = make_directory("tonnetz-supabase-")
    try:
        with Cluster(directory) as cluster:
            with cluster.admin() as admin:
                admin.execute(f"create role {OWNER} login createrole createdb bypassrls")
                admin.execute("create role supabase_auth_admin")
                for role in ("anon", "authenticated", "service_role bypassrls", "authenticator login"):
                    admin.execute(f"create role {role} noinherit")
                    admin.execute(f"grant {role.split()[0]} to {OWNER} with admin option")
            socket_folder = conninfo_to_dict(cluster.url("postgres"))["host"]
            with forwarding(f"{socket_folder}/.s.PGSQL.5432") as port:
                yield cluster, port
    finally:
        remove(directory)


@pytest.fixture
def hosted(server: tuple[Cluster, int]) -> Iterator[Hosted]:
    """An empty project: extensions and auth exist, and its owner is not a superuser."""
    cluster, port = server
    with cluster.empty() as url:
        name = conninfo_to_dict(url.get_secret_value())["dbname"]
        with psycopg.connect(url.get_secret_value(), autocommit=True) as admin:
            for statement in (
                f"alter database {name} owner to {OWNER}",
                f"create schema extensions authorization {OWNER}",
                "create extension vector with schema extensions",
                "grant usage on schema extensions to anon, authenticated, service_role",
                "create schema auth authorization supabase_auth_admin",
                f"grant usage on schema auth to anon, authenticated, service_role, {OWNER}",
                "create function auth.jwt() returns jsonb language sql stable as $$ select '{}'::jsonb $$",
                "alter function auth.jwt() owner to supabase_auth_admin",
            ):
                admin.execute(statement)
        tcp = f"postgresql://{OWNER}:none@127.0.0.1:{port}/{name}?sslmode=disable"
        yield Hosted(SecretStr(cluster.url(url, user=OWNER)), tcp)


@pytest.fixture
def supabase(request: pytest.FixtureRequest, hosted: Hosted, tmp_path: Path) -> Callable[..., str]:
    """A function that runs the CLI in a project with the hosted database, and returns what it prints on both streams."""
    if not CLI.exists():
        missing_tool(request, "needs the Supabase CLI: scripts/install_supabase.sh")

    def run(project: Path, *arguments: str, code: int = 0) -> str:
        ended = subprocess.run(
            [CLI, "--workdir", project, *arguments, "--db-url", hosted.tcp],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DO_NOT_TRACK": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == code, ended.stdout
        return ended.stdout

    return run


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """This project's supabase/, as in a clone of the repository."""
    shutil.copytree(PROJECT / "supabase", tmp_path / "tonnetz" / "supabase", ignore=shutil.ignore_patterns(".temp"))
    return tmp_path / "tonnetz"


@contextmanager
def forwarding(path: str) -> Iterator[int]:
    """A port of 127.0.0.1 that leads to a unix socket."""

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as target:
                target.connect(path)
                back = threading.Thread(target=copy, args=(target, self.request))
                back.start()
                copy(self.request, target)
                back.join()

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one side has ended

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        # A client that was killed leaves its thread waiting.
        block_on_close = False

    with Server(("127.0.0.1", 0), Forward) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        try:
            yield running.server_address[1]
        finally:
            running.shutdown()


@pytest.fixture
def project(tmp_path: Path, supabase: Callable[..., str]) -> Path:
    """Another project with three migrations, which are pushed already."""
    folder = tmp_path / "shop"
    migrations = folder / "supabase" / "migrations"
    migrations.mkdir(parents=True)
    (folder / "supabase" / "config.toml").write_text('project_id = "shop"\n')
    for version, name, script in (
        ("20260101000000", "articles", "create table articles (id bigint primary key, title text, body text);"),
        ("20260201000000", "rls", "alter table articles enable row level security;"),
        ("20260301000000", "rows", "insert into articles values (1, 'Tuning a guitar', 'Start with the low string.');"),
    ):
        (migrations / f"{version}_{name}.sql").write_text(script)
    supabase(folder, "db", "push", "--yes")
    return folder

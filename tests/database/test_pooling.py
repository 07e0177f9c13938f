"""Tests that the mode of a pooler is recognised. No setting, lock or statement stays on the connection."""

from contextlib import ExitStack
from typing import Any

import pytest
from pydantic import SecretStr

from shared.database import pooling
from shared.database.pooling import Pooling, find_pooling
from shared.database.postgres import Connection, connect
from shared.errors import DatabaseBusy
from tests.pgbouncer import PgBouncer
from tests.postgres_cluster import Cluster


def found(url: SecretStr) -> Pooling:
    with connect(url) as connection:
        return find_pooling(url, connection)


def test_a_direct_connection_is_recognised(database_url: SecretStr) -> None:
    assert found(database_url) == Pooling.DIRECT


@pytest.mark.parametrize("settings", [{}, {"default_pool_size": "1"}, {"server_round_robin": "1"}])
def test_transaction_mode_is_recognised(cluster: Cluster, database_url: SecretStr, settings: dict[str, str]) -> None:
    with PgBouncer(cluster.url("postgres"), "transaction", **settings) as pooled:
        url = pooled.url(database_url)
        assert found(url) == Pooling.TRANSACTION
        if settings.get("default_pool_size") == "1":
            return
        # These make PgBouncer open two server processes, which are idle afterwards.
        with connect(url) as one, connect(url) as other, one.transaction(), other.transaction():
            one.execute("select 1")
            other.execute("select 1")
        assert found(url) == Pooling.TRANSACTION


def test_transaction_mode_is_recognised_if_another_program_takes_the_process(
    cluster: Cluster, database_url: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PgBouncer(cluster.url("postgres"), "transaction") as pooled, ExitStack() as others:
        url = pooled.url(database_url)

        def connect_after_another(*arguments: Any, **options: Any) -> Connection:
            other = others.enter_context(connect(url))
            others.enter_context(other.transaction())
            other.execute("select 1")
            return connect(*arguments, **options)

        monkeypatch.setattr(pooling, "connect", connect_after_another)
        assert found(url) == Pooling.TRANSACTION


@pytest.mark.parametrize("settings", [{}, {"default_pool_size": "1"}, {"max_client_conn": "1"}])
def test_session_mode_is_recognised(
    cluster: Cluster, database_url: SecretStr, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "_WAIT_SECONDS", 0.5)
    with PgBouncer(cluster.url("postgres"), "session", **settings) as pooled:
        assert found(pooled.url(database_url)) == Pooling.SESSION


def test_a_pool_without_a_free_connection_is_named(
    cluster: Cluster, database_url: SecretStr, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "_WAIT_SECONDS", 0.5)
    with PgBouncer(cluster.url("postgres"), "transaction", default_pool_size="1") as pooled:
        url = pooled.url(database_url)
        waiting = connect(url)
        with connect(url) as other, other.transaction():
            other.execute("select 1")
            with pytest.raises(DatabaseBusy, match="no free connection"):
                find_pooling(url, waiting)
        waiting.close()

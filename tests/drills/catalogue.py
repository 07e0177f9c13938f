"""The list of all drills, with the shortest form that includes each."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.drills.crashes import kill_at_every_stage
from tests.drills.database_faults import (
    cut_the_connections,
    kill_beside_the_embedded_server,
    kill_postgrest,
    restart_the_server,
    restart_under_the_functions,
    stop_the_server_for_a_while,
    stop_the_server_for_good,
)
from tests.drills.database_refusals import fill_the_disk, provoke_a_deadlock, read_only, time_out_a_statement
from tests.drills.harness import Finding, Length
from tests.drills.neighbour import crowd_out
from tests.drills.provider_faults import bad_tls, fail_in_every_way, search_while_it_fails
from tests.drills.races import write_while_workers_run
from tests.drills.restore import restore
from tests.drills.soak import soak
from tests.postgres_cluster import Cluster


@dataclass(frozen=True)
class Drill:
    """A drill. It gets its own PostgreSQL server, because it may crash the server."""

    name: str
    run: Callable[[Cluster, Length], Finding]
    shortest: Length = Length.SHORT


DRILLS = (
    Drill("crash points", kill_at_every_stage),
    Drill("database: restarted", restart_the_server),
    Drill("database: down for a while", stop_the_server_for_a_while),
    Drill("database: down for good", stop_the_server_for_good),
    Drill("database: connections cut", cut_the_connections),
    Drill("database: PostgREST killed", kill_postgrest),
    Drill("database: statement timeout", time_out_a_statement),
    Drill("database: disk full", fill_the_disk),
    Drill("database: deadlock", provoke_a_deadlock),
    Drill("database: read-only", read_only),
    Drill("database: down while the HTTP server runs", restart_under_the_functions),
    Drill("database: process that started the embedded server killed", kill_beside_the_embedded_server),
    Drill("races", write_while_workers_run),
    Drill("provider: every fault", fail_in_every_way),
    Drill("provider: failing while the HTTP server runs", search_while_it_fails),
    Drill("provider: bad TLS", bad_tls),
    Drill("neighbour", crowd_out),
    Drill("restore", restore),
    Drill("soak", soak),
)

# Drills that are test files.
TESTED = {
    "input": ("tests/drills/test_inputs.py", "tests/drills/test_input_routes.py"),
    "privileges": (
        "tests/drills/test_privileges.py",
        "tests/drills/test_injection.py",
        "tests/drills/test_row_level_security.py",
        "tests/drills/test_tokens.py",
        "tests/drills/test_security_policy.py",
    ),
    "upgrade": ("tests/drills/test_upgrade.py",),
}

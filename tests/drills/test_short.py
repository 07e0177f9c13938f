"""Runs each drill in its short form; `make drill` runs the longer forms."""

from collections.abc import Iterator

import pytest

from tests.conftest import missing_tool
from tests.drills.catalogue import DRILLS, Drill
from tests.drills.harness import Length, Skipped, open_cluster
from tests.postgres_cluster import Cluster


@pytest.fixture(scope="module")
def drilled() -> Iterator[Cluster]:
    """A server for drills only, because they crash and reconfigure it."""
    with open_cluster() as cluster:
        yield cluster


SHORT = [pytest.param(one, id=one.name) for one in DRILLS if one.shortest is Length.SHORT]


@pytest.mark.drill
@pytest.mark.parametrize("drill", SHORT)
def test_each_drill_passes_in_its_short_form(drill: Drill, drilled: Cluster, request: pytest.FixtureRequest) -> None:
    try:
        finding = drill.run(drilled, Length.SHORT)
    except Skipped as reason:
        missing_tool(request, str(reason))
    assert finding.problems == [], f"{finding.done}: {finding.found}"

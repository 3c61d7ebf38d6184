"""The servers of a project with the tasks of ``fault_tasks.py``, for all tests of a database."""

from collections.abc import Iterator

import pytest

from tests.run.jobs.faults import Faults, bake_faults


def on(*databases: str) -> list[object]:
    """Return the parameters of tests that run on these databases, each in a process of its own."""
    return [
        pytest.param(database, marks=pytest.mark.xdist_group(f"jobs-{database}"))
        for database in databases
    ]


@pytest.fixture(scope="session", params=on("postgresql", "sqlite"))
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Faults]:
    """The servers, started by the first test of a database."""
    project = bake_faults(tmp_path_factory.mktemp("project"), request.param)
    with Faults(project, tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture
def stack(servers: Faults) -> Iterator[Faults]:
    """The servers, without jobs and without any other process."""
    yield servers
    servers.reset()

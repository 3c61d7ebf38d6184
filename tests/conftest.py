"""Bakes shared by the tests of the Docker files."""

import os
from itertools import product

import pytest

from containers import compose_problem, engine_problem


def unavailable(reason):
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def bake(cookies_session):
    """Return a function that bakes a project once per set of answers."""
    baked = {}

    def once(**answers):
        key = tuple(sorted(answers.items()))
        if key not in baked:
            result = cookies_session.bake(extra_context=answers)
            assert result.exit_code == 0, result.exception
            baked[key] = result.project_path
        return baked[key]

    return once


@pytest.fixture(scope="session")
def docker_projects(bake):
    """Every combination with Docker: its answers as applied and its folder."""
    found = []
    booleans = [True, False]
    for database, celery, redis, backup in product(
        ["sqlite", "postgresql", "mysql"], booleans, booleans, booleans
    ):
        answers = {
            "project_name": f"P {database} {celery} {redis} {backup}",
            "database": database,
            "use_celery": celery,
            "use_redis": redis,
            "use_backup": backup,
        }
        found.append(({**answers, "use_redis": celery or redis}, bake(**answers)))
    return found


@pytest.fixture(scope="session")
def compose():
    if problem := compose_problem():
        unavailable(problem)


@pytest.fixture(scope="session")
def engine(compose):
    if problem := engine_problem():
        unavailable(problem)

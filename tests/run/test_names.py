"""Names of projects: uv can lock each, and each server takes its role and database."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from tests.bake.test_template import functions_of_hook
from tests.conftest import Bake
from tests.harness import BOOLEANS, DATABASES, Stack, run, uv

NOTHING = dict.fromkeys(BOOLEANS, False)
SLUGS = ["shop-api", "pg-tools", "user", "public", "none", "root", "postgres", "mysql", "sys"]
SLUGS += ["template1", "information_schema", "select", "order", "x" * 63]


def locked(project: Path) -> set[str]:
    """Return the packages that uv locks for a project, without the project."""
    run(uv(), "lock", "--quiet", cwd=project)
    packages = tomllib.loads((project / "uv.lock").read_text())["package"]
    return {package["name"] for package in packages} - {"my-api"}


def test_hook_knows_what_uv_locks(bake: Bake) -> None:
    """A project with one of these names would depend on itself. The list grows with every answer."""
    expected: dict[str, set[str]] = {"always": locked(bake(**NOTHING))}
    for name in BOOLEANS:
        expected[name] = locked(bake(**NOTHING | {name: True})) - expected["always"]
    for name in DATABASES:
        expected[name] = locked(bake(**NOTHING, database=name)) - expected["always"]
    packages_of = functions_of_hook()["packages_of"]
    for name in expected:
        answers: dict[str, Any] = {"database": name if name in DATABASES else "sqlite"}
        answers |= {answer: answer == name for answer in BOOLEANS}
        wanted = " ".join(sorted(expected[name]))
        missing = expected[name] - packages_of(answers)
        assert not missing, f'PACKAGES["{name}"] in hooks/pre_gen_project.py: {wanted}'
    everything = locked(bake(database="mysql", **dict.fromkeys(BOOLEANS, True)))
    assert everything <= set().union(*expected.values())


@pytest.fixture(scope="module", params=["postgresql", "mysql"])
def stack(
    request: pytest.FixtureRequest, installed: Bake, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A project with its database server."""
    project = installed(database=request.param, **NOTHING)
    with Stack(project, tmp_path_factory.mktemp("names")) as stack:
        yield stack


def statements_of(project: Path) -> list[str]:
    """Return the statements with which README.md makes the user and the database."""
    password = str(dotenv_values(project / ".env")["DATABASE_PASSWORD"])
    readme = (project / "README.md").read_text().replace("$DATABASE_PASSWORD", password)
    [line] = re.findall(r"^\. \./\.env && (.*)$", readme, re.MULTILINE)
    quoted = re.findall(r'-[ce] "((?:\\.|[^"\\])*)"', line)
    return [re.sub(r"\\([\"`$\\])", r"\1", text) for text in quoted]


EXECUTE = """
import sys
from sqlalchemy import create_engine, text

with create_engine(sys.argv[1], isolation_level="AUTOCOMMIT").connect() as connection:
    for statement in sys.argv[2:]:
        connection.execute(text(statement.replace(":", "\\\\:")))
"""


@pytest.mark.parametrize("slug", SLUGS)
def test_server_takes_the_role_and_the_database(stack: Stack, bake: Bake, slug: str) -> None:
    """By the commands of README.md; then the project connects with the URL of its .env."""
    database = str(stack.answers["database"])
    project = bake(**NOTHING, project_slug=slug, database=database)
    statements = [part for text in statements_of(project) for part in text.split("; ")]
    assert len(statements) >= 2
    statements = [text.replace("@localhost", "@'%'") for text in statements]
    stack.python(EXECUTE, stack.environment["DATABASE_URL"], *statements)
    url = str(dotenv_values(project / ".env")["DATABASE_URL"])
    url = re.sub(r"@localhost:\d+", f"@127.0.0.1:{stack.database_port}", url)
    stack.python(EXECUTE, url, "CREATE TABLE made (id INTEGER)", "DROP TABLE made")


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+asyncpg", "mysql", "mariadb"]
)
def test_common_database_urls_mean_the_same_driver(stack: Stack, scheme: str) -> None:
    """As hosting companies give them. The URL of another database stops the start."""
    name = "postgresql" if scheme.startswith("postgres") else "mysql"
    code = "from app.core.config.settings import settings; print(settings.database.DATABASE_URL)"
    command = ("python", "-c", code)
    url = "://user:p%40ss@host/shop?sslmode=require"
    if name != stack.answers["database"]:
        with pytest.raises(AssertionError, match="DATABASE_URL: "):
            stack.run(*command, DATABASE_URL=scheme + url)
        return
    driver = {"postgresql": "psycopg", "mysql": "pymysql"}[name]
    assert stack.run(*command, DATABASE_URL=scheme + url).strip() == f"{name}+{driver}{url}"

"""Dockerfile and Compose files of every combination that has them; nothing is run here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from tests.bake.conftest import Bakes
from tests.harness import BOOLEANS, Answers, applied, find_program, skip_or_fail

Config = dict[str, Any]

COMPOSE_FILE = "docker-compose.yml"
FLOWER = ("flower", "127.0.0.1", "5555")


def services_of(answers: Answers) -> set[str]:
    """Return the services that the contract names for these answers."""
    services = {"app", "db-migrate"}
    if answers["database"] != "sqlite":
        services.add("db")
    if applied(answers)["use_redis"]:
        services.add("redis")
    if answers["use_celery"]:
        services |= {"celery-worker", "celery-beat", "flower"}
    return services


def compose_config(
    project: Path, *options: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Let Compose read the project's files; variables replace those of .env."""
    return subprocess.run(
        ["docker", "compose", *options, "config", "--format=json"],
        cwd=project,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def read_config(project: Path, *options: str, **variables: str) -> Config:
    """Return the configuration as Compose understands it."""
    result = compose_config(project, *options, **variables)
    assert result.returncode == 0, result.stderr
    config: Config = json.loads(result.stdout)
    return config


@pytest.fixture(scope="session")
def compose() -> None:
    """Docker's Compose plugin. It needs no engine to read a file."""
    docker = find_program("docker", install="see https://docs.docker.com/engine/install/")
    if subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        skip_or_fail("Docker has no Compose plugin: see https://docs.docker.com/compose/install/")


@pytest.fixture(scope="session")
def configs(compose: None, bakes: Bakes) -> dict[Path, Config]:
    """The configuration of every project with Docker."""
    return {
        project: read_config(project)
        for answers, project in bakes.values()
        if answers["use_docker"]
    }


def complete(bakes: Bakes) -> list[tuple[Answers, Path]]:
    """Return the project with every feature, for each database."""
    return [entry for entry in bakes.values() if all(entry[0][name] for name in BOOLEANS)]


def check_files(program: list[str], files: list[Path], bakes: Bakes) -> None:
    """Assert that a program accepts all files; a message names the combination of a file."""
    result = subprocess.run([*program, *files], capture_output=True, text=True, check=False)
    message = result.stdout + result.stderr
    for name, (_, project) in bakes.items():
        message = message.replace(str(project), name)
    assert result.returncode == 0, message


def test_files_follow_the_compose_specification(bakes: Bakes) -> None:
    # docker-compose.edge.yml has !reset, which only Compose itself reads.
    names = ("docker-compose.yml", "docker-compose.dev.yml")
    files = [project / name for _, project in bakes.values() for name in names]
    if files := [file for file in files if file.exists()]:
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
        check_files([*command, "vendor.compose-spec"], files, bakes)


def test_dockerfiles_pass_hadolint(bakes: Bakes) -> None:
    files = [file for _, project in bakes.values() for file in project.glob("Dockerfile")]
    if files:
        hadolint = str(Path(sys.executable).with_name("hadolint"))
        # A version of a package would shut out the distribution's security updates.
        check_files([hadolint, "--ignore=DL3008"], files, bakes)


def test_stack_is_what_was_asked_for(
    answers: Answers, project: Path, configs: dict[Path, Config]
) -> None:
    """Its services, their ports, volumes and limits."""
    if not answers["use_docker"]:
        assert not list(project.glob("*ocker*"))
        return
    config = configs[project]
    assert set(config["services"]) == services_of(answers)
    published, used = set(), set()
    for name, service in config["services"].items():
        one_off = name == "db-migrate"
        assert ("healthcheck" in service) == (not one_off), name
        assert service["restart"] == ("no" if one_off else "unless-stopped"), name
        assert "container_name" not in service, name
        for port in service.get("ports", []):
            published.add((name, port["host_ip"], port["published"]))
        volumes = service.get("volumes", [])
        used |= {volume["source"] for volume in volumes if volume["type"] == "volume"}
    ports = {("app", "127.0.0.1", "8000")}
    assert published == (ports | {FLOWER} if answers["use_celery"] else ports)
    stored = {"database"}
    stored |= {"backups"} if answers["use_backup"] else set()
    stored |= {"redis"} if applied(answers)["use_redis"] else set()
    assert used == stored
    assert used <= set(config["volumes"])


def test_other_files_add_only_their_own_services(compose: None, bakes: Bakes) -> None:
    for answers, project in complete(bakes):
        expected = services_of(answers)
        for file in sorted(project.glob("docker-compose.*.yml")):
            added = {"caddy"} if "edge" in file.name else set()
            config = read_config(project, "-f", COMPOSE_FILE, "-f", file.name, DOMAIN="example.com")
            assert set(config["services"]) == expected | added, file
        config = read_config(project, "--profile=monitoring")
        assert set(config["services"]) == expected | {"prometheus"}


def test_every_variable_of_dotenv_reaches_the_application(compose: None, bakes: Bakes) -> None:
    for _, project in complete(bakes):
        config = read_config(project)
        names = set(dotenv_values(project / ".env.example"))
        for service in ("app", "celery-worker", "celery-beat", "db-migrate"):
            assert names <= set(config["services"][service]["environment"]), service


def test_each_empty_secret_stops_the_stack(compose: None, bakes: Bakes) -> None:
    for _, project in complete(bakes):
        text = json.dumps(read_config(project))
        values = dotenv_values(project / ".env")
        for name, value in dotenv_values(project / ".env.example").items():
            # A secret that no service needs stops nothing.
            if not value and f"${{{name}" in (project / COMPOSE_FILE).read_text():
                assert str(values[name]) in text
                result = compose_config(project, **{name: ""})
                assert result.returncode != 0, name
                assert name in result.stderr


def test_clients_have_the_version_of_the_server(compose: None, bakes: Bakes) -> None:
    for answers, project in complete(bakes):
        if answers["database"] == "sqlite":
            continue
        image = read_config(project)["services"]["db"]["image"]
        name, major = re.fullmatch(r"(\w+):(\d+).*", image).groups()
        client = f"postgresql-client-{major}" if name == "postgres" else f"{name}-client"
        assert client in (project / "Dockerfile").read_text(), image

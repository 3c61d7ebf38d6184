"""Dockerfile and Compose files of every combination that has them; nothing is run here."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from tests.conftest import Bakes
from tests.harness import Answers, find_program, skip_or_fail

pytestmark = pytest.mark.xdist_group("bakes")  # the process that has baked them all

Configs = list[tuple[Answers, Path, dict[str, Any]]]

DATABASE_IMAGES = {"postgresql": "postgres:18", "mysql": "mysql:8.4"}
FILES = ("docker-compose.yml", "docker-compose.dev.yml", "docker-compose.edge.yml")


def services_of(answers: Answers) -> set[str]:
    """Return the services that the contract names for these answers."""
    services = {"app", "db-migrate"}
    if answers["database"] != "sqlite":
        services.add("db")
    if answers["use_celery"]:
        services |= {"redis", "celery-worker", "celery-beat", "flower"}
    elif answers["use_redis"]:
        services.add("redis")
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
    )


def read_config(project: Path, *options: str, **variables: str) -> dict[str, Any]:
    """Return the configuration as Compose understands it."""
    result = compose_config(project, *options, **variables)
    assert result.returncode == 0, result.stderr
    config: dict[str, Any] = json.loads(result.stdout)
    return config


@pytest.fixture(scope="module")
def docker_bakes(bakes: Bakes) -> Bakes:
    """The combinations with Docker."""
    return [(answers, project) for answers, project in bakes if answers["use_docker"]]


@pytest.fixture(scope="module")
def configs(docker_bakes: Bakes) -> Configs:
    """Each of them with its configuration."""
    docker = find_program("docker", install="see https://docs.docker.com/engine/install/")
    if subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        skip_or_fail("Docker has no Compose plugin: see https://docs.docker.com/compose/install/")
    return [(answers, project, read_config(project)) for answers, project in docker_bakes]


@pytest.fixture(scope="module")
def complete(configs: Configs) -> Configs:
    """The project with every feature, for each database."""
    booleans = ("use_celery", "use_redis", "use_backup")
    return [entry for entry in configs if all(entry[0][name] for name in booleans)]


def test_files_follow_the_compose_specification(docker_bakes: Bakes) -> None:
    files = [str(project / name) for _, project in docker_bakes for name in FILES[:2]]
    command = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_dockerfiles_pass_hadolint(docker_bakes: Bakes) -> None:
    files = [str(project / "Dockerfile") for _, project in docker_bakes]
    result = subprocess.run(["hadolint", *files], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_services_are_those_that_were_asked_for(configs: Configs) -> None:
    for answers, _, config in configs:
        assert set(config["services"]) == services_of(answers), answers


def test_other_files_add_only_their_own_services(complete: Configs) -> None:
    for answers, project, _ in complete:
        expected = services_of(answers)
        for file, added in zip(FILES[1:], (set(), {"caddy"}), strict=True):
            config = read_config(project, "-f", FILES[0], "-f", file, DOMAIN="example.com")
            assert set(config["services"]) == expected | added, answers
        config = read_config(project, "--profile=monitoring")
        assert set(config["services"]) == expected | {"prometheus"}, answers


def test_only_api_and_flower_publish_ports_and_on_loopback(configs: Configs) -> None:
    for answers, _, config in configs:
        published = {
            (name, port["host_ip"], port["published"])
            for name, service in config["services"].items()
            for port in service.get("ports", [])
        }
        expected = {("app", "127.0.0.1", "8000")}
        if answers["use_celery"]:
            expected.add(("flower", "127.0.0.1", "5555"))
        assert published == expected


def test_every_service_is_confined_and_checked(configs: Configs) -> None:
    for _, _, config in configs:
        for name, service in config["services"].items():
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["read_only"], name
            assert service["pids_limit"] > 0, name
            assert int(service["mem_limit"]) > 0, name
            assert service["logging"]["options"]["max-size"], name
            assert "container_name" not in service, name
            assert ("healthcheck" in service) == (name != "db-migrate"), name
            assert service["restart"] == ("no" if name == "db-migrate" else "unless-stopped"), name


def test_volumes_are_those_that_are_used(configs: Configs) -> None:
    for answers, _, config in configs:
        used = {
            volume["source"]
            for service in config["services"].values()
            for volume in service.get("volumes", [])
            if volume["type"] == "volume"
        }
        expected = {"database"}
        if answers["use_backup"]:
            expected.add("backups")
        if answers["use_redis"] or answers["use_celery"]:
            expected.add("redis")
        assert used == set(config["volumes"]) == expected, answers


def test_every_variable_of_dotenv_reaches_the_application(complete: Configs) -> None:
    for answers, project, config in complete:
        names = set(dotenv_values(project / ".env.example"))
        for service in ("app", "celery-worker", "celery-beat", "db-migrate"):
            assert names <= set(config["services"][service]["environment"]), answers


def test_each_empty_secret_stops_the_stack(complete: Configs) -> None:
    for _, project, config in complete:
        text = json.dumps(config)
        values = dotenv_values(project / ".env")
        for name, value in dotenv_values(project / ".env.example").items():
            # A secret that no service needs stops nothing.
            if not value and f"${{{name}" in (project / FILES[0]).read_text():
                assert str(values[name]) in text
                result = compose_config(project, **{name: ""})
                assert result.returncode != 0, name
                assert name in result.stderr


def test_no_secret_is_in_a_file_that_is_committed(docker_bakes: Bakes) -> None:
    for _, project in docker_bakes:
        values = dotenv_values(project / ".env")
        empty = [
            name for name, value in dotenv_values(project / ".env.example").items() if not value
        ]
        assert "SECRET_KEY" in empty
        text = "".join(
            path.read_text()
            for path in project.rglob("*")
            if path.is_file() and path.name != ".env"
        )
        for name in empty:
            assert str(values[name]) not in text, name


def test_client_programs_come_from_the_image_of_the_server(configs: Configs) -> None:
    for answers, project, config in configs:
        services = config["services"]
        if answers["database"] == "sqlite":
            assert "DATABASE_IMAGE" not in (project / "Dockerfile").read_text()
            continue
        image = DATABASE_IMAGES[str(answers["database"])]
        assert services["db"]["image"] == image
        if answers["use_backup"]:
            assert services["app"]["build"]["args"] == {"DATABASE_IMAGE": image}
            assert f"ARG DATABASE_IMAGE={image}\n" in (project / "Dockerfile").read_text()

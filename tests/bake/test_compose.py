"""Dockerfile and Compose files of every combination that has them; nothing is run here."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from tests.conftest import Bakes
from tests.harness import Answers, find_program

pytestmark = pytest.mark.xdist_group("bakes")  # the process that has baked them all

Configs = list[tuple[Answers, Path, dict[str, Any]]]

DATABASE_IMAGES = {"postgresql": "postgres:17", "mysql": "mysql:8.4"}


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
    project: Path, *files: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Let Compose read the project's files, with variables of .env replaced."""
    env_file = project / ".env.test"
    values = {**dotenv_values(project / ".env", interpolate=False), **variables}
    env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    command = ["docker", "compose", "--env-file", env_file.name]
    for file in files or ("docker-compose.yml",):
        command += ["-f", file]
    try:
        return subprocess.run(
            [*command, "config", "--format=json"], cwd=project, capture_output=True, text=True
        )
    finally:
        env_file.unlink()


@pytest.fixture(scope="module")
def docker_bakes(bakes: Bakes) -> Bakes:
    """The combinations with Docker."""
    return [(answers, project) for answers, project in bakes if answers["use_docker"]]


@pytest.fixture(scope="module")
def configs(docker_bakes: Bakes) -> Configs:
    """Each of them with its configuration as Compose understands it."""
    find_program("docker", install="see https://docs.docker.com/engine/install/")
    found = []
    for answers, project in docker_bakes:
        result = compose_config(project)
        assert result.returncode == 0, result.stderr
        found.append((answers, project, json.loads(result.stdout)))
    return found


def test_files_follow_the_compose_specification(docker_bakes: Bakes) -> None:
    files = [
        project / name
        for _, project in docker_bakes
        for name in ("docker-compose.yml", "docker-compose.dev.yml")
    ]
    command = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_dockerfiles_pass_hadolint(docker_bakes: Bakes) -> None:
    files = [str(project / "Dockerfile") for _, project in docker_bakes]
    result = subprocess.run(["hadolint", *files], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_services_are_those_that_were_asked_for(configs: Configs) -> None:
    for answers, _, config in configs:
        assert set(config["services"]) == services_of(answers), answers


def test_the_development_file_adds_no_service(docker_bakes: Bakes, configs: Configs) -> None:
    for answers, project in docker_bakes:
        result = compose_config(project, "docker-compose.yml", "docker-compose.dev.yml")
        assert result.returncode == 0, result.stderr
        assert set(json.loads(result.stdout)["services"]) == services_of(answers), answers


def test_only_the_api_and_flower_publish_and_on_loopback(configs: Configs) -> None:
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
            # MySQL's start script is given a file, which Compose writes into the container.
            assert service.get("read_only") or service["image"].startswith("mysql:"), name
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
        }
        expected = {"database"} | {
            volume
            for volume, answer in (
                ("flower", "use_celery"),
                ("backups", "use_backup"),
            )
            if answers[answer]
        }
        if answers["use_redis"] or answers["use_celery"]:
            expected.add("redis")
        assert used == set(config["volumes"]) == expected, answers


def test_every_setting_of_the_example_reaches_the_processes(configs: Configs) -> None:
    for answers, project, config in configs:
        example = dotenv_values(project / ".env.example")
        # Parts of URLs, and what only other containers are told.
        parts = {name for name in example if name.endswith("_PASSWORD")}
        passed = set(config["services"]["app"]["environment"])
        assert set(example) - parts <= passed, answers


def test_an_empty_secret_stops_the_stack(docker_bakes: Bakes, configs: Configs) -> None:
    for answers, project in docker_bakes:
        secrets = [
            name for name, value in dotenv_values(project / ".env.example").items() if not value
        ]
        text = (project / "docker-compose.yml").read_text()
        assert secrets
        for name in secrets:
            # Nowhere but with its check, or after it.
            assert f"${{{name}:?" in text, (answers, name)
        result = compose_config(project, **dict.fromkeys(secrets, ""))
        assert result.returncode != 0
        assert re.search("|".join(secrets), result.stderr), result.stderr


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
            assert values[name] not in text, name


def test_the_image_takes_in_only_what_is_named(docker_bakes: Bakes) -> None:
    for _, project in docker_bakes:
        lines = (project / ".dockerignore").read_text().splitlines()
        patterns = [line for line in lines if not line.startswith("#")]
        assert patterns[0] == "*"
        assert patterns[1:] == [
            "!app",
            "!migrations",
            "!pyproject.toml",
            "!uv.lock",
            "**/__pycache__",
        ]


def test_the_dump_client_is_of_the_server_s_image(docker_bakes: Bakes) -> None:
    for answers, project in docker_bakes:
        dockerfile = (project / "Dockerfile").read_text()
        services = yaml.safe_load((project / "docker-compose.yml").read_text())["services"]
        client = re.findall(r"^FROM (\S+) AS client$", dockerfile, re.MULTILINE)
        if answers["database"] == "sqlite":
            assert not client
        else:
            image = DATABASE_IMAGES[answers["database"]]
            assert services["db"]["image"] == image
            assert client == ([image] if answers["use_backup"] else [])

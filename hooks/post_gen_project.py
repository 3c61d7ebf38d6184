"""Delete what was declined, write .env with fresh secrets, and print the next steps.

The working directory is the new project. Uses the standard library only and starts no program.
"""

import json
import os
import shlex
import sys
from contextlib import suppress

# Validated by pre_gen_project.py.
ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")

# Answer -> the files that go when it is no. A file that needs two answers is under both. Files, not
# folders: in a folder there may be files of the owner's, which -f must not delete.
PATHS_BY_ANSWER = {
    "use_celery": [
        "app/api/routes/tasks.py",
        "app/core/celery.py",
        "app/core/config/celery.py",
        "app/jobs/__init__.py",
        "app/jobs/__main__.py",
        "app/jobs/_dispatcher.py",
        "app/jobs/_publisher.py",
        "app/jobs/_service.py",
        "app/jobs/_worker.py",
        "app/jobs/metrics.py",
        "app/jobs/scheduler.py",
        "app/models/job.py",
        "app/tasks/__init__.py",
        "app/tasks/backup_database_task.py",
        "app/tasks/cleanup.py",
        "app/tasks/example_task.py",
        "docs/tasks.md",
        "flowerconfig.py",
        "migrations/versions/0002_jobs.py",
        "tests/test_backup_task.py",
        "tests/test_celery.py",
        "tests/test_job_metrics.py",
        "tests/test_jobs.py",
        "tests/test_jobs_cli.py",
        "tests/test_tasks.py",
    ],
    "use_redis": [
        "app/core/config/redis.py",
        "app/core/redis.py",
        "dev/redis.py",
        "tests/servers/redis.py",
        "tests/test_redis.py",
    ],
    "use_backup": [
        "app/backup/__init__.py",
        "app/backup/__main__.py",
        "app/backup/base.py",
        "app/backup/config.py",
        "app/backup/copy.py",
        "app/backup/create.py",
        "app/backup/errors.py",
        "app/backup/folder.py",
        "app/backup/metrics.py",
        "app/backup/mysql.py",
        "app/backup/postgresql.py",
        "app/backup/programs.py",
        "app/backup/restore.py",
        "app/backup/retention.py",
        "app/backup/settings.py",
        "app/backup/sqlite.py",
        "app/core/config/backup.py",
        "docker/mysql-init.sql",
        "app/tasks/backup_database_task.py",
        "docs/backups.md",
        "tests/backup/__init__.py",
        "tests/backup/conftest.py",
        "tests/backup/content.py",
        "tests/backup/dialect_mysql.py",
        "tests/backup/dialect_postgresql.py",
        "tests/backup/dialect_sqlite.py",
        "tests/backup/test_backup.py",
        "tests/test_backup_task.py",
    ],
    "use_docker": [
        ".dockerignore",
        "Caddyfile",
        "Dockerfile",
        "docker-compose.dev.yml",
        "docker-compose.edge.yml",
        "docker-compose.yml",
        "docker/mysql-init.sql",
        "docs/deployment.md",
        "monitoring/prometheus.yml",
    ],
}

# Database -> the files that go when it is another one.
PATHS_BY_DATABASE = {
    "sqlite": [
        "app/backup/sqlite.py",
        "tests/backup/dialect_sqlite.py",
        "tests/servers/database_sqlite.py",
    ],
    "postgresql": [
        "app/backup/postgresql.py",
        "tests/backup/dialect_postgresql.py",
        "tests/servers/database_postgresql.py",
    ],
    "mysql": [
        "app/backup/mysql.py",
        "docker/mysql-init.sql",
        "tests/backup/dialect_mysql.py",
        "tests/servers/database_mysql.py",
    ],
}


def prune():
    """Delete the files of every declined answer, and the folders that are empty afterwards."""
    declined = [paths for answer, paths in PATHS_BY_ANSWER.items() if not ANSWERS[answer]]
    declined += [paths for name, paths in PATHS_BY_DATABASE.items() if name != ANSWERS["database"]]
    if ANSWERS["database"] == "sqlite":  # Its backups need no other program.
        declined.append(["app/backup/programs.py"])
    for path in {path for paths in declined for path in paths}:
        os.remove(path)
        folder = os.path.dirname(path)
        while folder and not os.listdir(folder):
            os.rmdir(folder)
            folder = os.path.dirname(folder)


def write_env():
    """Write .env from .env.example, with 256 random bits for every variable left empty there.

    An existing .env is kept (Cookiecutter's -f): the database knows its password.
    """
    try:
        descriptor = os.open(".env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with open(".env.example", encoding="utf-8") as example:
        with open(descriptor, "w", encoding="utf-8") as env:
            for line in example:
                is_empty = line.endswith("=\n") and not line.startswith("#")
                env.write(f"{line[:-1]}{os.urandom(32).hex()}\n" if is_empty else line)


def next_steps():
    """Return the commands that start the project, as text."""
    folder = os.getcwd()
    if os.path.dirname(folder) == os.environ.get("PWD"):  # the shell's current directory
        folder = os.path.basename(folder)
    commands = [f"cd {shlex.quote(folder)}", "uv sync"]
    if ANSWERS["database"] != "sqlite" and ANSWERS["use_docker"]:
        files = "-f docker-compose.yml -f docker-compose.dev.yml"
        commands.append(f"docker compose {files} up -d --wait db")
    commands += ["uv run alembic upgrade head", "uv run python -m dev"]
    lines = [f"The project is in {folder}/. Next:", "", *(f"    {line}" for line in commands), ""]
    if ANSWERS["database"] != "sqlite":
        lines += [
            f"{'Without Docker' if ANSWERS['use_docker'] else 'Before the migrations'}, create the "
            "database as README.md says, or set DATABASE_URL in .env to one that exists.",
            "",
        ]
    return "\n".join([*lines, "README.md in the project explains the rest."])


def show(text):
    """Write a text to standard output, if possible: Cookiecutter deletes the project on an error."""
    encoding = sys.stdout.encoding if sys.stdout else "utf-8"
    with suppress(OSError):
        os.write(1, text.encode(encoding, "backslashreplace"))


prune()
write_env()
show(f"\n{next_steps()}\n")

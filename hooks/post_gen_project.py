"""Delete what was declined, write .env with fresh secrets, and print the next steps.

The working directory is the new project. Uses the standard library only and starts no program.
"""

import json
import os
import re
import shlex
import sys
from contextlib import suppress

# Validated by pre_gen_project.py.
ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")

# Answer -> the files that go when it is no. A file that needs two answers is under both. Files, not
# folders: in a folder there may be files of the owner's, which -f must not delete.
PATHS_BY_ANSWER = {
    "use_celery": [
        "app/admin.py",
        "app/api/routes/tasks.py",
        "app/core/celery.py",
        "app/jobs/__init__.py",
        "app/jobs/__main__.py",
        "app/jobs/publisher.py",
        "app/jobs/scheduler.py",
        "app/jobs/service.py",
        "app/jobs/task.py",
        "app/jobs/worker.py",
        "app/models/job.py",
        "app/tasks/__init__.py",
        "app/tasks/backup_database_task.py",
        "app/tasks/cleanup.py",
        "app/tasks/example_task.py",
        "docs/tasks.md",
        "flowerconfig.py",
        "migrations/versions/0002_jobs.py",
        "tests/test_admin.py",
        "tests/test_jobs.py",
        "tests/test_schedule.py",
        "tests/test_tasks.py",
    ],
    "use_redis": [
        "app/core/redis.py",
        "dev/redis.py",
    ],
    "use_backup": [
        "app/backup/__init__.py",
        "app/backup/__main__.py",
        "app/backup/connection_mysql.py",
        "app/backup/connection_postgresql.py",
        "app/backup/contents_mysql.py",
        "app/backup/contents_postgresql.py",
        "app/backup/copies.py",
        "app/backup/database_mysql.py",
        "app/backup/database_postgresql.py",
        "app/backup/database_sqlite.py",
        "app/backup/errors.py",
        "app/backup/files.py",
        "app/backup/operations.py",
        "app/tasks/backup_database_task.py",
        "docker/mysql-init.sql",
        "docs/backups.md",
        "tests/backup/__init__.py",
        "tests/backup/conftest.py",
        "tests/backup/test_backup.py",
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
    "use_monitoring": [
        "app/api/routes/metrics.py",
        "app/metrics.py",
        "docs/monitoring.md",
        "monitoring/alerts.yml",
        "monitoring/alerts_test.yml",
        "monitoring/dashboard.json",
        "monitoring/prometheus.yml",
        "tests/test_metrics.py",
    ],
}

# The files that only some databases need.
DATABASES_BY_PATH = {
    "docker-compose.dev.yml": {"postgresql", "mysql"},
    "docker/mysql-init.sql": {"mysql"},
}

# Files of which the project gets one: NAME_VARIANT.py is renamed to NAME.py, the others go.
VARIANTS = {
    "app/backup/connection": {"postgresql", "mysql"},
    "app/backup/contents": {"postgresql", "mysql"},
    "app/backup/database": {"sqlite", "postgresql", "mysql"},
    "app/core/database": {"sqlite", "postgresql", "mysql"},
    "app/core/rate_limit": {"memory", "redis"},
    "migrations/env": {"sqlite", "postgresql", "mysql"},
    "tests/servers/database": {"sqlite", "postgresql", "mysql"},
}


def prune():
    """Delete the files of every declined answer, and the folders that are empty afterwards."""
    chosen = {ANSWERS["database"], "redis" if ANSWERS["use_redis"] else "memory"}
    declined = [paths for answer, paths in PATHS_BY_ANSWER.items() if not ANSWERS[answer]]
    declined.append([path for path, names in DATABASES_BY_PATH.items() if not names & chosen])
    declined += [[f"{name}_{one}.py" for one in names - chosen] for name, names in VARIANTS.items()]
    if not (ANSWERS["use_celery"] or ANSWERS["use_backup"]):
        declined.append(["app/metrics.py"])  # Requests are the only metrics.
    paths = {path for paths in declined for path in paths}
    for name, names in VARIANTS.items():
        kept = {f"{name}_{one}.py" for one in names & chosen} - paths
        for path in kept:
            os.replace(path, f"{name}.py")
        if not kept and os.path.exists(f"{name}.py"):  # -f, and the answers were others
            paths.add(f"{name}.py")
    for path in paths:
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


def read_git(name):
    """Return the text of a file in the .git folder of the template, or nothing."""
    # The name of a template in a folder may be relative to the folder of the shell.
    template = os.path.join(os.environ.get("PWD", ""), ANSWERS.get("_repo_dir", ""))
    with (
        suppress(OSError),
        open(os.path.join(template, ".git", name), encoding="utf-8", errors="replace") as file,
    ):
        return file.read().strip()
    return ""


def template_source():
    """Return the address of the template, or its folder, without anybody's name or token."""
    source = ANSWERS["_template"]
    if ":" not in source:
        remote = re.search(r'\[remote "origin"\][^[]*?url = (.+)', read_git("config"))
        folder = os.path.join(os.environ.get("PWD", ""), source)
        source = remote[1] if remote else os.path.abspath(folder)
    return re.sub(r"//(?!git@)[^/]*@", "//", source.split("?")[0].removeprefix("git+"))


def template_commit():
    """Return the commit of the template that is checked out, or None."""
    head = read_git("HEAD")
    branch = head.removeprefix("ref: ")
    packed = re.search(rf"^(\w+) {re.escape(branch)}$", read_git("packed-refs"), re.MULTILINE)
    return (head if head == branch else read_git(branch) or (packed and packed[1])) or None


def record_source():
    """Write into .forge.json where the project is from, for an update."""
    with open(".forge.json", encoding="utf-8") as file:
        record = json.load(file)
    answers = record.pop("cookiecutter")
    record |= {"forge_source": template_source(), "forge_commit": template_commit()}
    with open(".forge.json", "w", encoding="utf-8") as file:
        file.write(json.dumps(record | {"cookiecutter": answers}, indent=2) + "\n")


def next_steps():
    """Return the commands that start the project, as text."""
    folder = os.getcwd()
    if os.path.dirname(folder) == os.environ.get("PWD"):  # the shell's current directory
        folder = os.path.basename(folder)
    lines = [f"    cd {shlex.quote(folder)}", "    uv sync"]
    if ANSWERS["database"] != "sqlite" and ANSWERS["use_docker"]:
        files = "-f docker-compose.yml -f docker-compose.dev.yml"
        lines.append(f"    docker compose {files} up -d --wait db")
    elif ANSWERS["database"] != "sqlite":
        lines.append("    # Create the database as README.md says, or set DATABASE_URL in .env.")
    lines.append("    uv run python -m dev")
    text = "\n".join(lines)
    return f"\nThe project is in {folder}/. Next:\n\n{text}\n\nREADME.md explains the rest.\n"


def show(text):
    """Write a text to standard output, if possible: Cookiecutter deletes the project on an error."""
    encoding = sys.stdout.encoding if sys.stdout else "utf-8"
    with suppress(OSError):
        os.write(1, text.encode(encoding, "backslashreplace"))


prune()
write_env()
record_source()
if "_output_dir" in ANSWERS:  # cruft sets none: it generates to compare.
    show(next_steps())

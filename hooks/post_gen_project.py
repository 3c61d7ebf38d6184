"""Removes what was answered no, writes .env with fresh secrets, and says what comes next.

The working directory is the new project. Standard library only; starts no program. Imports little:
a bake is short, and a good part of it is imports.
"""

import os

# Those that pre_gen_project.py has checked: true or false, one of the choices, a plain name.
ANSWERS = {
    "use_celery": "{{ cookiecutter.use_celery }}" == "True",
    "use_redis": "{{ cookiecutter.use_redis }}" == "True",
    "use_backup": "{{ cookiecutter.use_backup }}" == "True",
    "use_docker": "{{ cookiecutter.use_docker }}" == "True",
}
DATABASE = "{{ cookiecutter.database }}"
SLUG = "{{ cookiecutter.project_slug }}"

# Answer -> the paths that go when it is no. A path that needs two answers is under both.
OWNED = {
    "use_celery": [
        "app/api/routes/tasks.py",
        "app/core/broker.py",
        "app/core/celery.py",
        "app/core/config/celery.py",
        "app/core/heartbeat.py",
        "app/core/idempotency.py",
        "app/core/publisher.py",
        "app/core/worker.py",
        "app/services/jobs.py",
        "app/tasks",
        "tests/test_backup_task.py",
        "tests/test_celery.py",
        "tests/test_idempotency.py",
        "tests/test_jobs.py",
        "tests/test_tasks.py",
        "tests/test_worker.py",
    ],
    "use_redis": [
        "app/core/config/redis.py",
        "app/core/redis.py",
        "dev/redis.py",
        "tests/servers/redis.py",
        "tests/test_redis.py",
    ],
    "use_backup": [
        "app/backup",
        "app/core/config/backup.py",
        "app/tasks/backup_database_task.py",
        "docs/backups.md",
        "tests/backup",
        "tests/test_backup_task.py",
    ],
    "use_docker": [
        ".dockerignore",
        "Dockerfile",
        "docker-compose.dev.yml",
        "docker-compose.yml",
    ],
}

# Database -> the paths that go when it is another one.
OWNED_BY_DATABASE = {
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
        "tests/backup/dialect_mysql.py",
        "tests/servers/database_mysql.py",
    ],
}


def prune():
    """Delete every path whose answer is no."""
    unwanted = [paths for answer, paths in OWNED.items() if not ANSWERS[answer]]
    unwanted += [paths for name, paths in OWNED_BY_DATABASE.items() if name != DATABASE]
    for path in sum(unwanted, []):
        if os.path.isdir(path):
            remove_folder(path)
        elif os.path.exists(path):
            os.remove(path)


def remove_folder(path):
    """Delete a folder with all that is in it."""
    for folder, folders, files in os.walk(path, topdown=False):
        for name in files:
            os.remove(os.path.join(folder, name))
        for name in folders:
            os.rmdir(os.path.join(folder, name))
    os.rmdir(path)


def write_env():
    """Write .env from .env.example, with 256 random bits for every variable left empty there.

    An .env that is there already (Cookiecutter's -f) is kept: the database knows its password.
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


prune()
write_env()
print(
    f"""
The project is in {SLUG}/. Next:

    cd {SLUG}
    uv sync
    uv run alembic upgrade head
    uv run python -m dev

README.md there has the rest."""
)

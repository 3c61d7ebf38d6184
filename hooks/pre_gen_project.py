"""Validate every answer, and apply "Celery needs Redis", before a file is written.

Cookiecutter validates what is typed at a prompt, but not the values of a replay file, so all of
them are validated here. The answers arrive as JSON text: no answer is executed.
"""

import json
import keyword
import os
import re
import shlex
import sys
from contextlib import suppress

# tojson escapes quotes, so that no answer can end this string.
ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")

# The same as in cookiecutter.json; tests/bake/test_answers.py compares them.
CHOICES = {
    "python_version": ["3.14", "3.13", "3.12"],
    "database": ["sqlite", "postgresql", "mysql"],
}
BOOLEANS = ["use_celery", "use_redis", "use_backup", "use_docker"]
# Control characters, and halves of a surrogate pair, which no encoding can hold.
NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
TEXTS = ["project_name", "description", "author_name"]

# Distributions that a project may depend on directly: a project of the same name would depend on
# itself. tests/bake/test_answers.py compares them with the generated pyproject.toml files.
DEPENDENCIES = [
    "alembic",
    "asgi-correlation-id",
    "celery",
    "celery-types",
    "cryptography",
    "email-validator",
    "fakeredis",
    "fastapi",
    "fastapi-offline",
    "flower",
    "httpx2",
    "isal",
    "kombu",
    "limits",
    "mypy",
    "obstore",
    "opentelemetry-api",
    "prometheus-client",
    "psycopg",
    "pwdlib",
    "pydantic",
    "pydantic-settings",
    "pyjwt",
    "pymysql",
    "pyrage",
    "pytest",
    "python-dotenv",
    "python-multipart",
    "redis",
    "rich",
    "ruff",
    "sentry-sdk",
    "sqlalchemy",
    "structlog",
    "typer",
    "types-pymysql",
    "types-zxcvbn",
    "uvicorn",
    "watchfiles",
    "zxcvbn",
]

# The database and its user are named after the project; servers have these already.
SYSTEM_DATABASES = [
    "information-schema",
    "mysql",
    "none",
    "performance-schema",
    "postgres",
    "public",
    "root",
    "sys",
    "template0",
    "template1",
]


# The longest name of a user: https://dev.mysql.com/doc/refman/8.4/en/user-names.html and
# https://www.postgresql.org/docs/current/limits.html
LONGEST_SLUG = {"mysql": 32, "postgresql": 63, "sqlite": 63}


def validate_slug(slug, database):
    """Return what is wrong with a slug, or None."""
    if not isinstance(slug, str) or not re.fullmatch(r"[a-z][a-z0-9_-]*(?<![_-])", slug):
        rule = (
            "must start with a lowercase letter, contain only lowercase letters, digits, - and _, "
            "and end with a letter or digit"
        )
    elif len(slug) > LONGEST_SLUG[database]:
        rule = f"must have at most {LONGEST_SLUG[database]} characters with {database}"
    elif keyword.iskeyword(slug) or slug in ("app", "true", "false", "null"):
        rule = "must not be a keyword of Python or YAML, or app"
    elif re.sub(r"[_-]+", "-", slug) in DEPENDENCIES:
        rule = "must not be the name of a package that the project uses"
    elif re.sub(r"[_-]+", "-", slug) in SYSTEM_DATABASES or re.match("pg[_-]", slug):
        rule = "must not be a name that a server reserves, or begin like PostgreSQL's own roles"
    else:
        return None
    return f"project_slug {rule}, not {slug!r}"


def validate_answers(answers):
    """Return one line that names the first invalid answer and what is allowed, or None."""
    for name in TEXTS:
        value = answers[name]
        if not isinstance(value, str) or NOT_TEXT.search(value):
            return f"{name} must be text without control characters, not {value!r}"
    for name, allowed in CHOICES.items():
        if answers[name] not in allowed:
            return f"{name} must be one of {', '.join(allowed)}, not {answers[name]!r}"
    for name in BOOLEANS:
        if not isinstance(answers[name], bool):
            return (
                f"{name} must be true or false, not {answers[name]!r} "
                "(Cookiecutter before 2.7 passes text: upgrade it)"
            )
    return validate_slug(answers["project_slug"], answers["database"])


def command_with_answers(answers):
    """Return the command that asks again, with the answers other than the slug as defaults.

    Texts with braces are left out, since Cookiecutter would render them as Jinja.
    """
    kept = [
        shlex.quote(f"{name}={answers[name]}")
        for name in TEXTS + list(CHOICES) + BOOLEANS
        if "{" not in str(answers[name])
    ]
    template = shlex.quote(str(answers.get("_template", "gh:org/forge")))
    return " ".join(["cookiecutter", template, *kept])


message = validate_answers(ANSWERS)
if message:
    print(f"forge: {message}", file=sys.stderr)
    if message.startswith("project_slug") and sys.stdin and sys.stdin.isatty():
        print(f"To keep the other answers: {command_with_answers(ANSWERS)}", file=sys.stderr)
    sys.exit(1)

# Jinja runs this expression while the hook itself is rendered; files that are rendered afterwards
# see the change, however the answers arrived.
# {% if cookiecutter.use_celery is sameas true and cookiecutter.use_redis is sameas false %}
# {{ cookiecutter.update({"use_redis": true}) }}
with suppress(OSError):  # Standard output may be closed or full.
    os.write(1, b"forge: Celery needs Redis, so use_redis is now yes.\n")
# {% endif %}

"""Manage users. A password is asked for on a terminal, else read as one line from stdin."""

import sys
from typing import Annotated

import typer
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from app.api.routes.auth import Registration
from app.core.database import session_scope
from app.models import User
from app.services import auth

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


def read_account(email: str) -> Registration:
    """Read a password and check it and the address as a registration does."""
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    return Registration(email=email, password=password)


@app.command()
def create(
    email: str, admin: Annotated[bool, typer.Option("--admin", help="An administrator.")] = False
) -> None:
    """Create a user."""
    account = read_account(email)
    with session_scope() as session:
        auth.register(session, account.email, account.password).is_admin = admin
    print(f"{account.email} was created")


@app.command()
def set_password(email: str) -> None:
    """Set a password and end all logins of the user."""
    account = read_account(email)
    with session_scope() as session:
        auth.set_password(session, auth.get_user(session, account.email), account.password)
    print(f"{account.email} has a new password")


@app.command("list")
def list_command() -> None:
    """List the users, oldest first."""
    with session_scope() as session:
        for user in session.scalars(select(User).order_by(User.id)):
            print(f"{user.created_at:%Y-%m-%d}", "admin" if user.is_admin else "user ", user.email)


@app.command()
def grant_admin(email: str) -> None:
    """Make a user an administrator."""
    with session_scope() as session:
        auth.get_user(session, email).is_admin = True
    print(f"{email} is an administrator")


@app.command()
def revoke_admin(email: str) -> None:
    """Take the rights of an administrator away, from the next request."""
    with session_scope() as session:
        auth.get_user(session, email).is_admin = False
    print(f"{email} is no administrator")


@app.command()
def delete(email: str) -> None:
    """Delete a user with their logins{{ " and jobs" if cookiecutter.use_celery }}."""
    with session_scope() as session:
        auth.delete_user(session, auth.get_user(session, email))
    print(f"{email} was deleted")


if __name__ == "__main__":
    try:
        app()
    except ValidationError as error:
        raise SystemExit("; ".join(f"{e['loc'][0]}: {e['msg']}" for e in error.errors())) from None
    except ValueError as error:
        raise SystemExit(str(error)) from None
    except DBAPIError as error:
        hint = "is a migration missing? uv run alembic upgrade head"
        raise SystemExit(f"{str(error.orig).splitlines()[0]} ({hint})") from None

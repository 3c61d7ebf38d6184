"""The processes, which ``python -m dev`` restarts when the code changes."""

import os
import shlex
import signal
import socket
import sys
from importlib import import_module
from traceback import extract_tb

from honcho.manager import Manager

PORTS = {"PORT": os.environ.get("PORT", "8000")}
PROCESSES = {"api": f"uvicorn app.main:app --port {PORTS['PORT']}"}
{% if cookiecutter.use_celery %}

CELERY = "celery -A app.core.celery.celery_app"
PORTS["FLOWER_PORT"] = os.environ.get("FLOWER_PORT", "5555")
PROCESSES["worker"] = f"{CELERY} worker --loglevel=info"
PROCESSES["beat"] = f"{CELERY} beat --loglevel=info"
PROCESSES["flower"] = f"{CELERY} flower --port={PORTS['FLOWER_PORT']} --logging=error"
{% endif %}


def answers(host: str, port: int) -> bool:
    """Return whether a server listens at the address."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def run_processes() -> None:
    """Run the processes until one ends, unless the code cannot be imported."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # The parent process ends this one.
    try:
        import_module("app.main")
{% if cookiecutter.use_celery %}
        for name in import_module("app.core.celery").celery_app.conf.include:
            import_module(name)
{% endif %}
    except (Exception, SystemExit) as error:
        places = [place for place in extract_tb(error.__traceback__) if "/app/" in place.filename]
        line = f"{places[-1].filename}:{places[-1].lineno}: " if places else ""
        print(f"{line}{type(error).__name__}: {error}\nWaiting for a change.", flush=True)
        return
    manager = Manager()
    for name, command in PROCESSES.items():
        manager.add_process(name, f"{shlex.quote(sys.executable)} -m {command}")
    manager.loop()
    if manager.returncode not in (130, 143):  # SIGINT, SIGTERM
        print("A process has ended, so all were stopped. Waiting for a change.", flush=True)

"""Configuration of Flower, which reads this file from its working directory.

https://flower.readthedocs.io/en/latest/config.html

The command line overrides what is set here.
"""

import os
import sys

from tornado.options import options

from app.core.config.base import SettingsGroup


class FlowerSettings(SettingsGroup):
    """The settings of Flower, from the environment or ``.env``."""

    ENVIRONMENT: str = "development"
    FLOWER_ADDRESS: str = "127.0.0.1"
    FLOWER_READ_ONLY: bool = True
    CELERY_TIMEZONE: str = "UTC"
    REDIS_KEY_PREFIX: str = "{{ cookiecutter.project_slug }}:"


_settings = FlowerSettings()

address = _settings.FLOWER_ADDRESS
read_only = _settings.FLOWER_READ_ONLY

_password = os.environ.get("FLOWER_BASIC_AUTH") or options.basic_auth or options.auth
if _settings.ENVIRONMENT != "development" and not _password:
    sys.exit("Flower needs a password outside development: set FLOWER_BASIC_AUTH=user:password")

# Celery settings, for `python -m celery --config=flowerconfig flower`: Flower then runs without the
# application, and needs neither its secrets nor its database.
broker_transport_options = {"global_keyprefix": _settings.REDIS_KEY_PREFIX}
timezone = _settings.CELERY_TIMEZONE

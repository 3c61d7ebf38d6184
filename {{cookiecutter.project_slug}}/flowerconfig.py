"""Configuration of Flower: https://flower.readthedocs.io/en/latest/config.html"""

import os

# Without it, Flower listens on every address of this machine.
address = os.environ.get("FLOWER_ADDRESS", "127.0.0.1")

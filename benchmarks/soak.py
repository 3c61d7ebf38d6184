"""Mixed load with a fault every minute, in turn. Ends in one line: accepted, done, twice, lost.

``python benchmarks/soak.py [MINUTES]``, ten by default. Exit code 1 when a task was lost.
"""

import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from itertools import count, cycle
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tests.stack import Stack, bake, wait_until  # noqa: E402


class Soak:
    """The load and the faults."""

    def __init__(self, stack):
        self.stack = stack
        self.accepted, self.refused = [], 0
        self.stopped = threading.Event()
        self.names = count()
        self.workers = []

    def start_worker(self):
        name = f"worker{next(self.names)}"
        self.stack.start_worker(name, CELERY_LOST_WORKER_TIMEOUT="20")
        self.workers.append(name)

    def queue(self):
        """Queue quick and slow tasks, some that run later, until told to stop."""
        for number in count():
            if self.stopped.wait(0.01):
                return
            key = f"t{number}"
            seconds = random.choice([0, 0, 0, 0.01, 0.1, 1 if number % 50 == 0 else 0])
            countdown = 5 if number % 20 == 0 else None
            try:
                self.stack.queue("nap", key, seconds, countdown=countdown)
            except Exception:  # whatever it is, the client was told
                self.refused += 1
            else:
                self.accepted.append(key)

    def kill_worker(self):
        self.stack.kill(self.workers.pop(0))
        self.start_worker()

    def kill_pool_process(self):
        pid = self.stack.processes[self.workers[0]].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(random.choice(children)), signal.SIGKILL)

    def stop_worker(self):
        name = self.workers.pop(0)
        self.start_worker()
        self.stack.stop(name, 90)

    def restart_redis(self):
        self.stack.signal("redis", signal.SIGTERM)
        self.stack.processes.pop("redis").wait()
        time.sleep(5)
        self.stack.start_redis()

    def freeze_redis(self):
        self.stack.signal("redis", signal.SIGSTOP)
        time.sleep(10)
        self.stack.signal("redis", signal.SIGCONT)

    def freeze_worker(self):
        name = self.workers[0]
        self.stack.signal(name, signal.SIGSTOP, group=True)
        time.sleep(10)
        self.stack.signal(name, signal.SIGCONT, group=True)


def main(minutes=10.0):
    """Run; return the exit code."""
    with tempfile.TemporaryDirectory(prefix="forge-") as folder:
        project = bake(Path(folder))
        with Stack(project, Path(folder) / "soak", LOG_LEVEL="INFO") as stack:
            stack.client.conf.result_backend = None
            stack.client.conf.task_publish_retry = False
            stack.client.conf.broker_transport_options = {"socket_timeout": 3}
            soak = Soak(stack)
            soak.start_worker()
            soak.start_worker()
            faults = cycle(
                [
                    soak.kill_worker,
                    soak.restart_redis,
                    soak.stop_worker,
                    soak.freeze_redis,
                    soak.kill_pool_process,
                    soak.freeze_worker,
                ]
            )
            load = threading.Thread(target=soak.queue)
            load.start()
            end = time.monotonic() + minutes * 60
            try:
                while time.monotonic() < end:
                    time.sleep(max(0, min(50, end - time.monotonic())))
                    if time.monotonic() < end - 20:
                        fault = next(faults)
                        print(f"{fault.__name__} at {len(soak.accepted)} accepted", flush=True)
                        fault()
            finally:
                soak.stopped.set()
                load.join()

            def lost():
                done = stack.runs("end")
                return [key for key in soak.accepted if not done[key]]

            try:
                wait_until(lambda: not lost(), 180)
            except AssertionError:
                print("lost:", lost()[:20])
            done, begun = stack.runs("end"), stack.runs("start")
            twice = [key for key in soak.accepted if done[key] > 1]
            again = Counter({key: begun[key] for key in soak.accepted if begun[key] > done[key]})
            print(
                f"{minutes:g} minutes: accepted {len(soak.accepted)}, refused {soak.refused}, "
                f"done {len(soak.accepted) - len(lost())}, done more than once {len(twice)}, "
                f"begun again after a kill {len(again)}, lost {len(lost())}"
            )
            return 1 if lost() else 0


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))

"""Mixed load with a fault every minute, in turn. Ends in one line: accepted, done, twice, lost.

``python benchmarks/soak.py [MINUTES]``, ten by default. Exit code 1 when a task was lost. Writes the
line into README.md.
"""

import os
import random
import re
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

from tables import write  # noqa: E402

from tests.stack import Stack, bake, wait_until  # noqa: E402


class Soak:
    """The load and the faults."""

    def __init__(self, stack):
        self.stack = stack
        self.accepted, self.refused = [], 0
        self.stopped = threading.Event()
        self.names = count()
        self.workers, self.all_workers = [], []
        self.stack.migrate()
        self.api = stack.start_api()

    def start_worker(self):
        name = f"worker{next(self.names)}"
        self.stack.start_worker(name, CELERY_LOST_WORKER_TIMEOUT="20")
        self.workers.append(name)
        self.all_workers.append(name)

    def queue(self):
        """Queue quick and slow tasks, some that run later, some through the API, until told."""
        for number in count():
            if self.stopped.wait(0.01):
                return
            key = f"t{number}"
            seconds = random.choice([0, 0, 0, 0.01, 0.1, 1 if number % 50 == 0 else 0])
            countdown = 5 if number % 20 == 0 else None
            try:
                if number % 4 == 0:
                    answer = self.api.post("/notify", params={"user_id": 1, "message": "x"})
                    key = answer.raise_for_status().json()["task_id"]
                else:
                    self.stack.queue("nap", key, seconds, countdown=countdown)
            except Exception:  # whatever it is, the client was told
                self.refused += 1
            else:
                self.accepted.append(key)

    def done(self):
        """Return how often each task was done."""
        done = self.stack.runs("end")
        for name in self.all_workers:
            log = self.stack.log(name)
            done.update(re.findall(r"send_notification\[(\S+?)\] succeeded", log))
        return done

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
                done = soak.done()
                return [key for key in soak.accepted if not done[key]]

            try:
                wait_until(lambda: not lost(), 180, every=2)
            except AssertionError:
                print("lost:", lost()[:20])
            done, begun = soak.done(), stack.runs("start")
            twice = [key for key in soak.accepted if done[key] > 1]
            again = Counter({key: begun[key] for key in soak.accepted if begun[key] > done[key]})
            line = (
                f"{minutes:g} minutes: accepted {len(soak.accepted)}, refused {soak.refused}, "
                f"done {len(soak.accepted) - len(lost())}, done more than once {len(twice)}, "
                f"begun again after a kill {len(again)}, lost {len(lost())}"
            )
            print(line)
            write("soak", line)
            return 1 if lost() else 0


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))

"""A task that is queued or delivered twice has its effect once."""

import secrets
from pathlib import Path

from app.tasks.example_task import send_receipt


def test_queued_twice_for_one_order(worker: Path) -> None:
    order = secrets.randbelow(10**9)
    answers = [send_receipt.delay(order).get(timeout=60) for _ in range(3)]
    assert answers == [{"status": "sent", "order_id": order}] * 3
    assert worker.read_text().count(f"order_id={order}") == 1


def test_another_order_is_another_effect(worker: Path) -> None:
    orders = [secrets.randbelow(10**9) for _ in range(2)]
    for order in orders:
        send_receipt.delay(order).get(timeout=60)
    assert all(worker.read_text().count(f"order_id={order}") == 1 for order in orders)

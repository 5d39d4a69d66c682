"""Job kind `shop`: prints a label for each order, into a folder. Run it with `worker.py shop`."""

import time
from pathlib import Path

from worker import Fail, Job, Retry

LABELS = Path("labels")


def ship(job: Job) -> None:
    order = job.event["data"]
    if "order" not in order:
        raise Fail("the data names no order")
    if not LABELS.is_dir():
        raise Retry("the printer is away", after=0.5)
    time.sleep(0.1 * order.get("pages", 0))
    # Named by the job: when its process dies before the outcome is written, the next run writes the same label.
    (LABELS / str(job.id)).write_text(f"order {order['order']}\n")


HANDLERS = {"shop": ship}

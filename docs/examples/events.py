#!/usr/bin/env python3
"""Prints each event that Relayforge publishes, once. `handlers.md` says what a queue of your own has to bear.

    AMQP__URL=amqp://...@mq events.py QUEUE [PATTERN...]

PATTERN is `<tenant slug>.<source>.<event type>`; `*` stands for a word, `#` for any number of them. Without one: all.
Only sources with `fanout` publish events.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections import OrderedDict
from typing import Any

import pika
from pika.exceptions import AMQPError

MAX_MESSAGES = 100_000  # beyond, the oldest are dropped: a queue without a bound fills the broker's disk
PREFETCH = 100
REMEMBERED = 10_000  # ids; the same event comes again within seconds, if it does
PAUSE_S = 1.0

stopping = False
seen: OrderedDict[str, None] = OrderedDict()  # a real consumer keeps it where its effects are, in their transaction


def stop(*_: Any) -> None:
    global stopping
    stopping = True


def receive(channel: Any, delivery: Any, _properties: Any, body: bytes) -> None:
    event = json.loads(body)
    if event["id"] not in seen:
        print(json.dumps({"routing_key": delivery.routing_key, **event}), flush=True)
        seen[event["id"]] = None
        if len(seen) > REMEMBERED:
            seen.popitem(last=False)
    # After the effect: an event is lost otherwise if this process dies in between. Hence the ids.
    channel.basic_ack(delivery.delivery_tag)


def consume(broker: pika.BlockingConnection, queue: str, patterns: list[str]) -> None:
    channel = broker.channel()
    channel.queue_declare(queue, durable=True, arguments={
        "x-queue-type": "quorum", "x-max-length": MAX_MESSAGES, "x-overflow": "drop-head"})
    for pattern in patterns:
        channel.queue_bind(queue, os.environ.get("AMQP__PREFIX", "relayforge") + ".events", pattern)
    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(queue, receive)
    print("waiting for events", file=sys.stderr, flush=True)
    while not stopping and channel.consumer_tags:
        broker.process_data_events(time_limit=0.2)


def main() -> None:
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        url, queue = pika.URLParameters(os.environ["AMQP__URL"]), sys.argv[1]
    except (KeyError, ValueError, IndexError):  # whose texts may quote the URL, with its password
        sys.exit("events.py: AMQP__URL is to be RabbitMQ's URL, and the first argument the name of your queue")
    while not stopping:
        try:
            with pika.BlockingConnection(url) as broker:
                consume(broker, queue, sys.argv[2:] or ["#"])
        except (AMQPError, OSError) as error:  # also while the exchange is missing: the relay declares it
            print(f"the broker: {type(error).__name__}", file=sys.stderr, flush=True)
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()

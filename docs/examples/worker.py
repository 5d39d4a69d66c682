#!/usr/bin/env python3
"""Works Relayforge's jobs in Python, through the SQL functions. `handlers.md` says why each step is as it is.

    DATABASE__URL=postgres://relayforge_consumer:...@db/relayforge AMQP__URL=amqp://...@mq worker.py HANDLERS [QUEUE...]

HANDLERS is a Python module with a dictionary of that name: job kind -> function that takes a Job. A function that
returns has succeeded; it raises Retry or Fail otherwise. It runs in a thread of its own; database and broker belong to
the main thread. Without a QUEUE, both work queues are consumed; one that does not exist yet is looked for again.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Callable
from uuid import UUID

import pika
import psycopg
import psycopg.conninfo
from pika.exceptions import AMQPError, ChannelClosedByBroker
from psycopg.rows import dict_row


def setting(name: str, default: int) -> int:
    """As of `relayforge-consumer --help`: all consumers of a queue are to agree on attempts and back-off."""
    return int(os.environ.get(f"CONSUMER__{name}", default))


SLOTS = setting("SLOTS", 8)
LEASE_S = setting("LEASE_MS", 30_000) / 1000
TIMEOUT_S = setting("JOB_TIMEOUT_MS", 900_000) / 1000
SHUTDOWN_S = setting("SHUTDOWN_MS", 25_000) / 1000
POISON_STARTS = setting("POISON_STARTS", 5)
MAX_ATTEMPTS = setting("MAX_ATTEMPTS", 5)
BACKOFF_S = (setting("BACKOFF_BASE_MS", 1_000) / 1000, setting("BACKOFF_CAP_MS", 300_000) / 1000)
TICK_S, PAUSE_S, LOCKED_PAUSE_S, LOOK_AGAIN_S = 0.2, 1.0, 0.5, 10.0
MAX_ERROR_CHARS = 2_000
MAX_WAIT_S = 86_400.0
MAX_ATTEMPT = 2**31 - 1  # an integer of PostgreSQL


class Retry(Exception):
    """Another attempt may succeed: after the back-off, or after as many seconds as are given, if that is longer."""

    def __init__(self, error: str, after: float = 0.0):
        super().__init__(error)
        self.after = after


class Fail(Exception):
    """No further attempt would succeed."""


@dataclass
class Job:
    """One run of one attempt. Effects are to be safe to repeat, keyed by `id`."""

    id: UUID
    attempt: int
    run_id: UUID
    kind: str
    event: dict[str, Any]  # CloudEvents: id, type, source, subject, data
    began: float = field(default_factory=time.monotonic)
    lost: threading.Event = field(default_factory=threading.Event)  # somebody else has it: stop where you can


@dataclass
class Outcome:
    """How a run ended. Errors are stored and shown to operators: no payload, no secret."""

    job: Job
    error: str | None = None
    retryable: bool = False
    after: float = 0.0
    still_runs: bool = False  # its thread goes on, and so keeps its slot


class Refused(Exception):
    """The database answered, and not with a result: for a value, or because its schema changes just now."""


def storable(error: Exception) -> str:
    """Its text, as far as a column of type text can have it: no NUL, no half of a surrogate pair."""
    return str(error).replace("\0", "?").encode(errors="replace").decode()[:MAX_ERROR_CHARS]


def seconds(after: Any) -> float:
    """What a handler asks to wait for, at most a day. What is no number of seconds leaves it to the back-off."""
    return float(min(after, MAX_WAIT_S)) if isinstance(after, (int, float)) and after > 0 else 0.0


class Database:
    """One connection, made anew until it answers: a message waits unacknowledged meanwhile, a run keeps its slot."""

    def __init__(self, url: str):
        self.url, self.connection = url, None

    def ask(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        while True:
            try:
                if self.connection is None or self.connection.closed:
                    self.connection = psycopg.connect(
                        self.url, autocommit=True, connect_timeout=5, row_factory=dict_row,
                        application_name="relayforge-worker.py")
                # Each call is its own transaction, and committed when this returns.
                return self.connection.execute(statement, parameters).fetchall()
            except psycopg.OperationalError as error:  # away, or a time-out; repeating is safe: run ids fence
                logging.warning("the database does not answer: %s", str(error).partition("\n")[0])
                time.sleep(PAUSE_S)
            except psycopg.Error as error:  # its text may quote values
                logging.error("the database refuses a call: %s", error.sqlstate or type(error).__name__)
                if self.connection is not None:
                    self.connection.close()  # what it has prepared may be of before a migration
                raise Refused from None


class Worker:
    def __init__(self, handlers: dict[str, Callable[[Job], None]], queues: list[str]):
        self.handlers, self.queues = handlers, queues
        self.database = Database(os.environ["DATABASE__URL"])
        self.broker = pika.URLParameters(os.environ["AMQP__URL"])
        self.broker.socket_timeout = self.broker.blocked_connection_timeout = 5.0
        self.runs: dict[UUID, Job] = {}  # by run id, until the outcome is written: each takes a slot
        self.waiting: deque[tuple[Any, int, UUID, int, bytes]] = deque()  # not acknowledged
        self.ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self.unwritten: list[Outcome] = []
        self.consumed: dict[str, Any] = {}  # channels by queue
        self.renew_at = self.look_at = self.write_at = 0.0
        self.stopping = False

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        while not self.stopping:
            try:
                self.consume()
            except (AMQPError, OSError) as error:  # what was not acknowledged is delivered again
                logging.warning("the broker does not answer: %s", type(error).__name__)
                self.tick()
                time.sleep(PAUSE_S)
        logging.info("draining %d runs", len(self.runs))
        while self.runs:
            self.tick()
            time.sleep(TICK_S)

    def stop(self, *_: Any) -> None:
        self.stopping = True
        # What still runs then is left to its lease.
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.setitimer(signal.ITIMER_REAL, max(SHUTDOWN_S, 0.001))

    def consume(self) -> None:
        with pika.BlockingConnection(self.broker) as broker:
            self.waiting.clear()
            self.consumed.clear()
            self.look_at = 0.0
            while not self.stopping:
                if time.monotonic() >= self.look_at:
                    self.subscribe(broker)
                broker.process_data_events(time_limit=TICK_S)
                self.start(broker)
                self.tick()

    def subscribe(self, broker: pika.BlockingConnection) -> None:
        self.look_at = time.monotonic() + LOOK_AGAIN_S
        for name in self.queues:
            if name in self.consumed and self.consumed[name].is_open:
                continue
            channel = broker.channel()
            channel.basic_qos(prefetch_count=SLOTS)
            # A queue that is removed under us is looked for again.
            channel.add_on_cancel_callback(lambda _, name=name: self.consumed.pop(name, None))
            try:
                channel.basic_consume(name, self.receive)
                self.consumed[name] = channel
            except ChannelClosedByBroker as refused:  # 404: the relay declares its queues, nobody else does
                logging.warning("queue %s: %s", name, refused.reply_text)

    def receive(self, channel: Any, delivery: Any, properties: Any, body: bytes) -> None:
        try:
            job_id, number = (properties.message_id or "").split(":")
            attempt = int(number)
            if not 1 <= attempt <= MAX_ATTEMPT:
                raise ValueError
            self.waiting.append((channel, delivery.delivery_tag, UUID(job_id), attempt, body))
        except (TypeError, ValueError):  # it would come back for ever; bytes, where it is no UTF-8
            logging.error("dropped a message that names no job and attempt, of %d bytes", len(body))
            channel.basic_ack(delivery.delivery_tag)

    def start(self, broker: pika.BlockingConnection) -> None:
        taken = [self.waiting.popleft() for _ in range(min(SLOTS - len(self.runs), len(self.waiting)))]
        if not taken:
            return
        try:
            self.start_all(broker, taken)
        except Refused:
            time.sleep(PAUSE_S)
            for one in taken:  # one that can't be started must not hold up the others
                try:
                    self.start_all(broker, [one])
                except Refused:
                    logging.error("job %s:%d can't be started", one[2], one[3])
                    broker.call_later(PAUSE_S, lambda c=one[0], t=one[1]: c.is_open and c.basic_nack(t))

    def start_all(self, broker: pika.BlockingConnection, taken: list[tuple[Any, int, UUID, int, bytes]]) -> None:
        answers = self.database.ask(
            "select outcome, run_id, job_kind, body is null as gone"
            "  from relayforge.start_jobs(%s::uuid[], %s::integer[], make_interval(secs => %s), %s)",
            [job_id for _, _, job_id, _, _ in taken], [attempt for _, _, _, attempt, _ in taken],
            LEASE_S, POISON_STARTS)
        for (channel, tag, job_id, attempt, body), answer in zip(taken, answers):
            if answer["outcome"] == "started":  # before the acknowledgement, which may fail: the lease is ours now
                self.launch(broker, job_id, attempt, body, answer)
            else:
                logging.info("a message started nothing: job %s:%d is %s", job_id, attempt, answer["outcome"])
            if answer["outcome"] == "locked":  # somebody holds the row just now: ask again
                broker.call_later(LOCKED_PAUSE_S, lambda c=channel, t=tag: c.is_open and c.basic_nack(t))
            elif channel.is_open:
                channel.basic_ack(tag)
        if any(answer["outcome"] == "poisoned" for answer in answers):
            self.wake(None)

    def launch(self, broker: Any, job_id: UUID, attempt: int, body: bytes, answer: dict[str, Any]) -> None:
        for older in [run for run in self.runs.values() if run.id == job_id]:
            older.lost.set()
        job = Job(job_id, attempt, answer["run_id"], answer["job_kind"], {})
        self.runs[job.run_id] = job

        def work() -> None:
            self.ended.put(self.outcome(job, body, answer["gone"]))
            try:
                broker.add_callback_threadsafe(lambda: None)  # so that the outcome is written at once
            except AMQPError:
                pass

        threading.Thread(target=work, name=str(job_id), daemon=True).start()

    def outcome(self, job: Job, body: bytes, gone: bool) -> Outcome:
        try:
            if gone:  # erased, or past its retention: the message's copy is not to be used either
                raise Fail("the event is not stored any more")
            if job.kind not in self.handlers:
                raise Fail(f'this worker has no handler for job kind "{job.kind}"')
            job.event = json.loads(body)
            self.handlers[job.kind](job)
            return Outcome(job)
        except Retry as error:
            return Outcome(job, storable(error), retryable=True, after=seconds(error.after))
        except Fail as error:
            return Outcome(job, storable(error))
        except BaseException as error:  # its text may quote the payload
            at = traceback.extract_tb(error.__traceback__)[-1]
            text = f"the handler raised {type(error).__name__} at {os.path.basename(at.filename)}:{at.lineno}"
            return Outcome(job, text, retryable=True)

    def tick(self) -> None:
        """Writes what has ended, keeps the leases of what has not."""
        while not self.ended.empty():
            outcome = self.ended.get()
            if outcome.job.lost.is_set():
                self.runs.pop(outcome.job.run_id, None)
                logging.warning("job %s:%d is not ours any more", outcome.job.id, outcome.job.attempt)
            else:
                self.unwritten.append(outcome)
        ended = [outcome.job.run_id for outcome in self.unwritten]
        for run in self.runs.values():
            if time.monotonic() - run.began > TIMEOUT_S and not run.lost.is_set() and run.run_id not in ended:
                run.lost.set()  # a thread can't be stopped, only asked
                self.unwritten.append(Outcome(run, f"it ran for over {TIMEOUT_S:g} s", True, still_runs=True))
        if self.unwritten and time.monotonic() >= self.write_at:
            self.write()
        if time.monotonic() >= self.renew_at:
            self.renew_at = time.monotonic() + LEASE_S / 3
            self.renew()

    def write(self) -> None:
        ended, self.unwritten = self.unwritten, []
        try:
            self.unwritten = self.write_all(ended)
        except Refused:
            for one in ended:  # one that can't be written must not hold up the others, and keeps its lease meanwhile
                try:
                    self.unwritten += self.write_all([one])
                except Refused:
                    logging.error("job %s:%d can't be ended yet", one.job.id, one.job.attempt)
                    if one.job.lost.is_set() and not one.still_runs:
                        self.runs.pop(one.job.run_id, None)  # nor by us ever
                    else:
                        self.unwritten.append(one)
            self.write_at = time.monotonic() + PAUSE_S

    def write_all(self, ended: list[Outcome]) -> list[Outcome]:
        """Returns those whose rows somebody holds. What was written before a refusal may be written again."""
        succeeded = [outcome for outcome in ended if outcome.error is None]
        failed = [outcome for outcome in ended if outcome.error is not None]
        busy: set[UUID] = set()  # somebody holds their rows: written at the next tick
        if succeeded:
            (answer,) = self.database.ask(
                "call relayforge.complete_jobs(%s::uuid[], %s::uuid[], null)",
                [outcome.job.id for outcome in succeeded], [outcome.job.run_id for outcome in succeeded])
            busy.update(answer["p_busy"])
        if failed:
            (answer,) = self.database.ask(
                "call relayforge.fail_jobs(%s::uuid[], %s::uuid[], %s::text[], %s::boolean[], %s::double precision[],"
                "  %s, make_interval(secs => %s), make_interval(secs => %s), null, null, null)",
                [outcome.job.id for outcome in failed], [outcome.job.run_id for outcome in failed],
                [outcome.error for outcome in failed],
                [outcome.retryable for outcome in failed], [outcome.after for outcome in failed],
                MAX_ATTEMPTS, *BACKOFF_S)
            busy.update(answer["p_busy"])
            if answer["p_failed"]:
                self.wake(answer["p_next_due"])
        for outcome in ended:
            if outcome.job.id not in busy:
                if not outcome.still_runs:
                    self.runs.pop(outcome.job.run_id, None)
                logging.info("job %s:%d %s", outcome.job.id, outcome.job.attempt, outcome.error or "succeeded")
        return [outcome for outcome in ended if outcome.job.id in busy]

    def renew(self) -> None:
        held = [run for run in self.runs.values() if not run.lost.is_set()]
        if held:
            try:
                (answer,) = self.database.ask(
                    "call relayforge.renew_leases(%s::uuid[], %s::uuid[], make_interval(secs => %s), null)",
                    [run.id for run in held], [run.run_id for run in held], LEASE_S)
            except Refused:
                self.renew_at = time.monotonic() + min(PAUSE_S, LEASE_S / 3)
                return
            for run in held:
                if run.id in answer["p_lost"]:
                    run.lost.set()

    def wake(self, due: Any) -> None:
        """A relay that sleeps past what was just written is told; in a transaction of its own, after that one."""
        try:
            self.database.ask("select relayforge.wake_relays(coalesce(%s::timestamptz, clock_timestamp()))", due)
        except Refused:
            pass  # it looks by itself before long


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    sys.modules["worker"] = sys.modules[__name__]  # so that `from worker import Retry` is this very Retry
    sys.path.insert(0, os.getcwd())
    try:
        psycopg.conninfo.conninfo_to_dict(os.environ["DATABASE__URL"])
        pika.URLParameters(os.environ["AMQP__URL"])
    except (KeyError, ValueError, psycopg.ProgrammingError):  # whose texts quote the URL, with its password
        sys.exit("worker.py: DATABASE__URL and AMQP__URL are to be the URLs of PostgreSQL and RabbitMQ")
    handlers = importlib.import_module(sys.argv[1]).HANDLERS
    prefix = os.environ.get("AMQP__PREFIX", "relayforge")
    Worker(handlers, sys.argv[2:] or [f"{prefix}.jobs", f"{prefix}.jobs.retries"]).run()


if __name__ == "__main__":
    main()

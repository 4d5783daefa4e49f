"""The names of all log events, with the fields that each carries.

The library never configures logging; the command does. Events are `noun.past_tense`.
"""

#: Event -> its fields. `tests/unit/test_telemetry.py` holds the code to this table.
EVENTS: dict[str, tuple[str, ...]] = {
    # jobs, by the worker; debug unless something is wrong
    "job.acked": ("job", "task", "queue", "attempt", "duration_ms"),
    "job.retried": ("job", "task", "queue", "attempt", "error", "delay_ms"),
    "job.parked": ("job", "task", "queue", "error", "delay_ms"),
    "job.buried": ("job", "task", "queue", "attempt", "error"),
    "job.unclassified": ("job", "queue"),
    "job.condemned": ("job", "queue", "worker", "how"),
    "job.cancelled": ("job", "task", "queue", "reason"),
    "job.released": ("job", "task", "queue", "attempt"),
    "job.abandoned": ("job", "task"),
    "job.reclaimed": ("job", "queue", "owner", "to"),
    "job.recovered": ("job", "queue"),
    "note.refused": ("job", "queue", "error"),
    "lease.lost": ("job", "queue"),
    "settle.unconfirmed": ("jobs",),
    # the way to Redis
    "broker.lost": ("url", "error"),
    "marker.lost": ("error",),
    "broker.regained": ("url", "away_s"),
    "queue.lost": ("queue", "error"),
    "queue.regained": ("queue", "away_s"),
    "embedded.started": ("folder", "server", "pid"),
    "embedded.stopped": ("folder", "pid"),
    "embedded.died": ("folder", "pid", "last_words"),
    "embedded.failed": ("folder", "error"),
    # one worker process
    "worker.started": ("owner", "queues", "concurrency"),
    "worker.draining": ("running", "timeout_s"),
    "worker.dumped": ("running", "tasks", "threads"),
    "job.dumped": ("job", "task", "age_s", "stack"),
    "task.dumped": ("name", "stack"),
    "thread.dumped": ("name", "stack"),
    "worker.stopped": ("done", "unsettled"),
    # the supervisor
    "server.unchecked": ("url", "error"),
    "server.doubted": ("url", "why", "remedy"),
    "server.refused": ("url", "why", "remedy"),
    "supervisor.started": ("processes", "url"),
    "supervisor.draining": ("workers",),
    "supervisor.quieted": ("workers",),
    "supervisor.resumed": ("workers",),
    "roll.started": ("why", "workers"),
    "roll.finished": ("why", "workers"),
    "roll.failed": ("why", "left"),
    "exit.ordered": ("generation",),
    "registry.lost": ("error",),
    "supervisor.gave_up": ("failures",),
    "supervisor.stopped": ("exit_code",),
    "worker.spawned": ("worker", "pid", "owner"),
    "worker.ready": ("worker", "pid", "after_s"),
    "worker.exited": ("worker", "pid", "exit_code", "signal", "rss_bytes", "running"),
    "worker.failed": ("worker", "error"),
    "worker.killed": ("worker", "pid", "why"),
    "worker.replaced": ("worker", "pid", "by", "why"),
    "replacement.failed": ("worker", "pid", "why"),
    "threads.abandoned": ("count",),
}

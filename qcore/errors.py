"""Every exception of qcore.

    QcoreError
    ├── ConfigError            a setting, URL, path or environment is wrong
    │   └── AppNotFound        "package.module:app" does not lead to an App
    ├── UnknownQueue           enqueue to a queue that the app does not declare
    ├── ArgumentError          arguments do not fit the task's annotations
    ├── PayloadTooLarge        arguments are larger than the limit
    ├── CodecError             bytes that are no qcore envelope
    │   └── NewerVersion       bytes that a newer qcore wrote
    ├── ResultError            what a task returned cannot be kept
    ├── Parked                 the worker has no code for the job yet
    ├── JobNotFound            no trace of the job
    ├── ResultExpired          the job has ended, and its result is no longer kept
    ├── JobFailed              the job is dead
    ├── JobCancelled           the job was cancelled before it ended
    ├── AlreadyEnqueued        another job has the unique key, and the task asks to be told
    ├── JobTimedOut            the task ran longer than its timeout
    ├── ProcessDied            the process of a `run_in="process"` task ended by itself
    └── BrokerError
        ├── BrokerUnavailable  Redis could not be reached or did not answer in time
        ├── BrokerRefused      Redis answered and will never accept this: rights, password
        ├── NotConfirmed       enqueued, but fewer replicas had it in time than was asked for
        ├── QueueClosed        the queue takes no new jobs at the moment
        └── QueueFull          the queue or Redis holds as much as it may

`GiveUp` and `RetryLater` are no errors: a task raises them to say how its run ends
(`qcore.model.retry`).
"""


class QcoreError(Exception):
    """The root of every error that qcore raises on purpose."""


class ConfigError(QcoreError):
    """A setting, URL, path or environment is wrong; the message says what to change."""


class AppNotFound(ConfigError):
    """The path given as "package.module:app" does not lead to an App."""


class UnknownQueue(QcoreError):
    """A queue that the app does not declare."""


class ArgumentError(QcoreError):
    """Arguments that do not fit the annotations of a task; nothing was enqueued."""


class PayloadTooLarge(QcoreError):
    """Encoded arguments above the payload limit; nothing was enqueued."""


class CodecError(QcoreError):
    """Bytes that are not an envelope of a known version."""


class NewerVersion(CodecError):
    """An envelope of a layout newer than this code: another worker can read it."""


class ResultError(QcoreError):
    """What a task returned cannot be kept: no type that travels, too large, or yet to be run.

    The work is done, so the job is dead at once: a retry would do it again, to the same end.
    """


class Parked(QcoreError):
    """A worker has no code for the job: it waits, uncharged, for one that has."""


class JobNotFound(QcoreError):
    """Redis holds no trace of the job: it never existed, or everything about it was forgotten."""


class ResultExpired(QcoreError):
    """The job has ended, and what it returned was not kept, or no longer is."""


class JobFailed(QcoreError):
    """The job is dead; the message is the reason.

    Attributes:
        reason: The last error in one line, or what else ended the job.
        kind: The name of the last error's class; empty where no error ended the job.
        attempts: Runs that failed.
        trace: Where the last error was raised, on the worker; empty where none is kept.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        kind: str = "",
        attempts: int = 0,
        trace: str = "",
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.kind = kind
        self.attempts = attempts
        self.trace = trace


class JobCancelled(QcoreError):
    """The job was cancelled before it could end."""


class AlreadyEnqueued(QcoreError):
    """Another job has the unique key, and the task says `on_conflict="raise"`.

    Attributes:
        ref: That job, `QUEUE/ID`, as taken by `app.job`.
        enqueued: How many jobs of the same chunk of `enqueue_many` were enqueued.
    """

    def __init__(self, message: str, *, ref: str = "", enqueued: int = 0) -> None:
        super().__init__(message)
        self.ref = ref
        self.enqueued = enqueued


class JobTimedOut(QcoreError):
    """The task ran longer than its timeout."""


class ProcessDied(QcoreError):
    """The process that ran the task ended by itself: a signal, the memory killer, `os._exit`."""


class BrokerError(QcoreError):
    """Something is wrong with Redis or with the way to it."""

    #: False when it is certain that the call had no effect.
    sent = True


class BrokerUnavailable(BrokerError):
    """Redis could not be reached or did not answer in time.

    `sent` is False when it is certain that the call had no effect.
    """

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class BrokerRefused(BrokerError):
    """Redis answered that it will not do this; trying again cannot help."""


class NotConfirmed(BrokerError):
    """The jobs are enqueued, but too few replicas had them in time: a failover may lose them."""

    #: As of BrokerUnavailable: the call had an effect.
    sent = True


class QueueClosed(BrokerError):
    """The queue takes no new jobs until somebody opens it; nothing of the call was enqueued."""

    sent = False


class QueueFull(BrokerError):
    """The queue has `max_jobs` waiting jobs, or Redis is at `maxmemory`; nothing was enqueued."""

    sent = False

"""qcore: an asyncio-native job queue on Redis."""

from qcore.app import App
from qcore.context import Context
from qcore.errors import (
    AlreadyEnqueued,
    AppNotFound,
    ArgumentError,
    BrokerError,
    BrokerRefused,
    BrokerUnavailable,
    CodecError,
    ConfigError,
    JobCancelled,
    JobFailed,
    JobNotFound,
    JobTimedOut,
    NewerVersion,
    NotConfirmed,
    Parked,
    PayloadTooLarge,
    ProcessDied,
    QcoreError,
    QueueClosed,
    QueueFull,
    ResultError,
    ResultExpired,
    UnknownQueue,
)
from qcore.handle import JobHandle
from qcore.model.admission import Enqueued
from qcore.model.job import JobStatus
from qcore.model.retry import Exponential, GiveUp, Retry, RetryLater
from qcore.queue import Queue
from qcore.task import Task
from qcore.uniqueness import Unique

__all__ = [
    "AlreadyEnqueued",
    "App",
    "AppNotFound",
    "ArgumentError",
    "BrokerError",
    "BrokerRefused",
    "BrokerUnavailable",
    "CodecError",
    "ConfigError",
    "Context",
    "Enqueued",
    "Exponential",
    "GiveUp",
    "JobCancelled",
    "JobFailed",
    "JobHandle",
    "JobNotFound",
    "JobStatus",
    "JobTimedOut",
    "NewerVersion",
    "NotConfirmed",
    "Parked",
    "PayloadTooLarge",
    "ProcessDied",
    "QcoreError",
    "Queue",
    "QueueClosed",
    "QueueFull",
    "ResultError",
    "ResultExpired",
    "Retry",
    "RetryLater",
    "Task",
    "Unique",
    "UnknownQueue",
]

__version__ = "0.1.0"

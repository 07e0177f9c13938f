"""Starts a run on Lambda: invokes the worker function and does not wait for it."""

import logging
from dataclasses import asdict

import orjson

from shared.embedding.runs import Task
from shared.errors import ConfigurationError

log = logging.getLogger(__name__)


class WorkerFunction:
    """The function with functions.worker.handler, by its name or ARN."""

    def __init__(self, function: str | None) -> None:
        self._function = function

    def dispatch(self, task: Task) -> None:
        """Send the task to the worker. Raises ConfigurationError if the function is not set or cannot be invoked."""
        if self._function is None:
            raise ConfigurationError(
                "TASK_FUNCTION: is needed to run tasks on Lambda: the name of the function with functions.worker.handler"
            )
        # Part of Lambda's runtime; imported here because it takes 0.2 s.
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            boto3.client("lambda").invoke(
                FunctionName=self._function, InvocationType="Event", Payload=orjson.dumps(asdict(task))
            )
        except (BotoCoreError, ClientError) as error:
            log.error("could not invoke %s: %s", self._function, type(error).__name__)
            raise ConfigurationError(
                f"TASK_FUNCTION: {self._function} cannot be invoked ({type(error).__name__}); "
                "check its name and the role's permission"
            ) from None

    def waiting(self) -> Task | None:
        """None, because this process does not know whether the worker has started."""
        return None

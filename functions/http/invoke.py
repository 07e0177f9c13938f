"""Start a task on Lambda: the worker function is invoked and not waited for."""

import logging
from dataclasses import asdict

import orjson

from shared.embedding.runs import Task
from shared.errors import ConfigurationError

log = logging.getLogger(__name__)


def invoke_task(function: str, task: Task) -> None:
    """Hand a task to the worker function. Raises ConfigurationError where it cannot be invoked."""
    # Part of Lambda's runtime; imported here because it takes 0.2 s.
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        boto3.client("lambda").invoke(FunctionName=function, InvocationType="Event", Payload=orjson.dumps(asdict(task)))
    except (BotoCoreError, ClientError) as error:
        log.error("could not invoke %s: %s", function, type(error).__name__)
        raise ConfigurationError(
            f"TASK_FUNCTION: {function} cannot be invoked ({type(error).__name__}); check its name and the role's permission"
        ) from None

"""Settings of hypothesis: the number of examples."""

import os

import hypothesis

LONG = os.environ.get("TONNETZ_DRILL") == "long"
EXAMPLES = 400 if LONG else 30


settings = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=not LONG,
    suppress_health_check=list(hypothesis.HealthCheck),
)

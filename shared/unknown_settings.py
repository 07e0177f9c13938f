"""Warns of environment variables that look like misspelt settings, which would otherwise have no effect."""

import logging
from collections.abc import Collection, Iterable

log = logging.getLogger(__name__)

PREFIXES = ("EMBEDDING_", "OPENAI_", "OLLAMA_", "TONNETZ_", "SUPABASE_")

# Variables of other programs with the same prefixes: the Supabase CLI, the openai package, the Ollama server, the tests.
FOREIGN_PREFIXES = ("SUPABASE_AUTH_", "SUPABASE_DB_", "SUPABASE_INTERNAL_", "SUPABASE_SMTP_", "SUPABASE_STORAGE_")
FOREIGN = frozenset(
    """
    SUPABASE_ACCESS_TOKEN SUPABASE_CA_SKIP_VERIFY SUPABASE_EXPERIMENTAL SUPABASE_PROFILE SUPABASE_PROJECT_ID
    SUPABASE_PROJECT_REF SUPABASE_PUBLISHABLE_KEY SUPABASE_SECRET_KEY SUPABASE_WORKDIR SUPABASE_YES
    OPENAI_ADMIN_KEY OPENAI_LOG OPENAI_ORGANIZATION OPENAI_ORG_ID OPENAI_PROJECT_ID OPENAI_WEBHOOK_SECRET
    OLLAMA_API_KEY OLLAMA_CONTEXT_LENGTH OLLAMA_DEBUG OLLAMA_FLASH_ATTENTION OLLAMA_GPU_OVERHEAD OLLAMA_HOST
    OLLAMA_KEEP_ALIVE OLLAMA_KV_CACHE_TYPE OLLAMA_LLM_LIBRARY OLLAMA_LOAD_TIMEOUT OLLAMA_MAX_LOADED_MODELS
    OLLAMA_MAX_QUEUE OLLAMA_MODELS OLLAMA_MULTIUSER_CACHE OLLAMA_NEW_ENGINE OLLAMA_NOHISTORY OLLAMA_NOPRUNE
    OLLAMA_NUM_PARALLEL OLLAMA_ORIGINS OLLAMA_REMOTES OLLAMA_SCHED_SPREAD OLLAMA_TMPDIR OLLAMA_VULKAN
    TONNETZ_DRILL TONNETZ_SKIP_TOOLS
    """.split()  # noqa: SIM905 - a list of strings would take forty lines
)

_warned: set[str] = set()


def warn_of_unknown(variables: Iterable[str], known: Collection[str]) -> None:
    """Warn once of each unknown variable that has a prefix of the settings, or nearly the name of an unset setting."""
    names = {name.upper() for name in variables}
    unset = set(known) - names
    for name in sorted(names - set(known) - FOREIGN - _warned):
        ours = name.startswith(PREFIXES) and not name.startswith(FOREIGN_PREFIXES)
        # Other names are compared only with settings of similar length: comparing all would slow down a cold start.
        alike = (
            known if ours else [one for one in unset if abs(len(one) - len(name)) <= 2 and len({*one} ^ {*name}) <= 2]
        )
        nearest = None
        if alike:
            from difflib import get_close_matches

            nearest = next(iter(get_close_matches(name, sorted(alike), 1, 0.6 if ours else 0.9)), None)
        if ours or nearest:
            _warned.add(name)
            advice = f"did you mean {nearest}?" if nearest else ".env.example lists every setting"
            log.warning("%s: there is no such setting, so it has no effect; %s", name, advice)

"""The HTTP edge: one file a function, each with an `app` and a `handler` for Lambda."""

import gc
import os

# Both before anything else is imported: they are for cold starts.
# Python looks for garbage after every 700 objects made. Imports make 80,000 to 150,000, none of them garbage: looking
# through them was a seventh of a cold start.
gc.set_threshold(200_000, 20, 20)
# Pydantic looks for plugins in the metadata of every installed package; none is used here. PYDANTIC_DISABLE_PLUGINS set to
# nothing lets it.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

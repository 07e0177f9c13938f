"""The HTTP functions: one file for each, with an `app` and a `handler` for Lambda."""

import gc
import os

# The two settings below shorten cold starts. They must come before any other import.
# The garbage collector runs after every 700 objects. Imports make 80,000 to 150,000 objects, none of them garbage:
# collecting took a seventh of a cold start.
gc.set_threshold(200_000, 20, 20)
# Pydantic searches the metadata of every installed package for plugins; none is used here. To allow it, set
# PYDANTIC_DISABLE_PLUGINS to an empty value.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

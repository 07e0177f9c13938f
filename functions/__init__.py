"""The HTTP functions. Each module here is one function, with an `app` and a `handler` for Lambda."""

import gc
import os

# The two settings below shorten cold starts. They must come before any other import.
# By default the garbage collector runs after every 700 new objects. Imports create 80,000 to 150,000 objects, none of
# them garbage, and these runs of the collector took a seventh of a cold start.
gc.set_threshold(200_000, 20, 20)
# By default Pydantic searches the metadata of every installed package for plugins, and this program uses none. To turn
# the search on again, set PYDANTIC_DISABLE_PLUGINS to an empty value.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

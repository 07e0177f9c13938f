"""The HTTP edge: one file a function, each with an `app` and a `handler` for Lambda."""

import gc

# Python looks for garbage after every 700 objects made. Imports make hundreds of thousands, none of them garbage: that
# was a seventh of a cold start.
gc.set_threshold(50_000, 20, 20)

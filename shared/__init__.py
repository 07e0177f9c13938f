"""Everything below HTTP: settings, database, embedding, search, providers."""

__version__ = "0.2.0"

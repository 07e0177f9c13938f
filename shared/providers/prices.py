"""Lists prices of embedding models in USD per million input tokens, as published in May 2026."""

OPENAI_PRICES = {"text-embedding-3-small": 0.02, "text-embedding-3-large": 0.13, "text-embedding-ada-002": 0.10}

"""Code that all functions share: application, keys, errors, limits and metrics."""

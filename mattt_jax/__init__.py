"""Memory-augmented test-time training in JAX."""

__version__ = "0.1.0"

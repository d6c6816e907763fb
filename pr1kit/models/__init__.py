"""The policy: loading, adapters, precision, memory, export; the tiny policy's own classes."""

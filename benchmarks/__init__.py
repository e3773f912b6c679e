"""Benchmarks of server_native against its peers (see README.md)."""

"""Fetches, installs and explains the native library: ``python -m server_native.setup``."""

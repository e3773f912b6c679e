"""The C ABI of the native library, generated: `server_native.h` for C, `abi` for ctypes.

Importable as `server_native._bindings` (a symlink); `make bindings` rewrites it. Only
`server_native._ffi` uses it.
"""

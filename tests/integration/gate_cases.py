"""What the gate must refuse, as data: issue 2 item 8, deviations of peers, and smuggling variants.

Each case is what stands before a pipelined ``GET /canary``. ``late`` marks a fault behind the head: when it
arrives apart from the head, a handler may have been called, but must not get to the end of the body.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CASES", "Case"]

HOST = b"host: a\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
END = b"\r\n\r\n"


class Case(NamedTuple):
    """Bytes of one request and the status they must get."""

    name: str
    data: bytes
    status: int = 400
    late: bool = False


def _fields(name: str, *lines: bytes, status: int = 400) -> Case:
    return Case(name, b"GET / HTTP/1.1\r\n" + b"\r\n".join(lines) + END, status)


def _line(name: str, line: bytes, status: int = 400) -> Case:
    return Case(f"line: {name}", line + b"\r\n" + HOST + b"\r\n", status)


def _length(value: bytes) -> Case:
    return Case(f"length {value!r}", POST + b"content-length: " + value + END + b"hello")


def _coding(name: str, *values: bytes) -> Case:
    lines = b"".join(b"transfer-encoding: " + value + b"\r\n" for value in values)
    return Case(f"coding: {name}", POST + lines + b"\r\n0" + END)


def _chunks(name: str, data: bytes, status: int = 400) -> Case:
    return Case(f"chunk: {name}", CHUNKED + data, status, late=True)


CASES = (
    # Host (RFC 9112 section 3.2)
    Case("no host", b"GET / HTTP/1.1\r\n\r\n"),
    _fields("two hosts", b"host: a", b"host: b"),
    _fields("the same host twice", b"host: a", b"Host: a"),
    _fields("two hosts in one field", b"host: a, b"),
    *(
        _fields(f"host {value!r}", b"host: " + value)
        for value in (
            b"",
            b" ",
            b"a b",
            b"a/b",
            b"u@a",
            b"a:x",
            b"a:99999",
            b"a:",
            b":80",
            b"[::1",
            b"[a]",
            b"a#b",
            b"a?b",
            b"\xff",
        )
    ),
    # Framing (RFC 9112 section 6)
    Case(
        "length and coding",
        POST + b"content-length: 5\r\ntransfer-encoding: chunked" + END + b"0" + END,
    ),
    Case(
        "coding and length",
        POST + b"transfer-encoding: chunked\r\ncontent-length: 5" + END + b"0" + END,
    ),
    Case(
        "length 0 and coding",
        POST + b"content-length: 0\r\ntransfer-encoding: chunked" + END + b"0" + END,
    ),
    Case("conflicting lengths", POST + b"content-length: 5\r\ncontent-length: 6" + END + b"hello!"),
    Case("equal lengths twice", POST + b"content-length: 5\r\ncontent-length: 5" + END + b"hello"),
    *(
        _length(value)
        for value in (
            b"",
            b"+5",
            b"-0",
            b"-5",
            b"0x5",
            b"5_0",
            b"5, 5",
            b"5,6",
            b"5 5",
            b"5;",
            b"5.0",
            b"\xb2",
            b"five",
            b"1e1",
            b"\x0b5",
            b"9223372036854775808",
            b"18446744073709551616",
            b"18446744073709551621",
            b"9" * 40,
        )
    ),
    _coding("xchunked", b"xchunked"),
    _coding("identity", b"identity"),
    _coding("identity, chunked", b"identity, chunked"),
    _coding("chunked, identity", b"chunked, identity"),
    _coding("gzip, chunked", b"gzip, chunked"),
    _coding("chunked not final", b"chunked, gzip"),
    _coding("chunked twice in one", b"chunked, chunked"),
    _coding("chunked twice", b"chunked", b"chunked"),
    _coding("identity first", b"identity", b"chunked"),
    _coding("identity last", b"chunked", b"identity"),
    _coding("vertical tab before", b"\x0bchunked"),
    _coding("form feed after", b"chunked\x0c"),
    _coding("quoted", b'"chunked"'),
    _coding("empty", b""),
    _coding("comma", b",chunked"),
    _coding("parameter", b"chunked;a=b"),
    Case(
        "coding in 1.0",
        b"POST / HTTP/1.0\r\n" + HOST + b"transfer-encoding: chunked" + END + b"0" + END,
    ),
    Case(
        "space before the colon of a coding",
        POST + b"transfer-encoding : chunked" + END + b"0" + END,
    ),
    Case("a folded coding", POST + b"transfer-encoding:\r\n chunked" + END + b"0" + END),
    Case(
        "a coding behind a bare CR", POST + b"x: y\rtransfer-encoding: chunked" + END + b"0" + END
    ),
    Case(
        "a coding behind a bare LF", POST + b"x: y\ntransfer-encoding: chunked" + END + b"0" + END
    ),
    # Lines and fields (RFC 9112 sections 2.2, 5)
    _fields("folded", b"host: a", b"x: y", b" z"),
    _fields("folded with a tab", b"host: a", b"x: y", b"\tz"),
    _fields("white space before the first field", b" host: a"),
    _fields("space before the colon", b"host: a", b"x : y"),
    _fields("tab before the colon", b"host: a", b"x\t: y"),
    _fields("space in a name", b"host: a", b"x y: z"),
    _fields("no name", b"host: a", b": y"),
    _fields("no colon", b"host: a", b"xy"),
    *(
        _fields(f"byte {byte:#04x} in a value", b"host: a", b"x: a" + bytes((byte,)) + b"b")
        for byte in (0, 1, 8, 0x0B, 0x0C, 0x1B, 0x1F, 0x7F)
    ),
    *(
        _fields(f"byte {byte:#04x} in a name", b"host: a", b"x" + bytes((byte,)) + b"y: z")
        for byte in (0, 9, 0x0B, 0x22, 0x28, 0x2C, 0x2F, 0x3B, 0x40, 0x5B, 0x7B, 0x7F, 0x80, 0xFF)
    ),
    _fields("bare CR in a value", b"host: a", b"x: a\rb"),
    _fields("bare LF in a value", b"host: a", b"x: a\ny: b"),
    Case("bare LF ends the request line", b"GET / HTTP/1.1\nhost: a" + END),
    Case("bare LF ends a field", b"GET / HTTP/1.1\r\nhost: a\n\r\n"),
    Case("bare LF ends the head", b"GET / HTTP/1.1\r\nhost: a\r\n\n"),
    Case("LF LF", b"GET / HTTP/1.1\nhost: a\n\n"),
    Case("CR CR LF", b"GET / HTTP/1.1\r\r\nhost: a" + END),
    Case("bare LF first", b"\nGET / HTTP/1.1\r\nhost: a" + END),
    Case("bare CR first", b"\rGET / HTTP/1.1\r\nhost: a" + END),
    Case("many empty lines first", b"\r\n" * 20 + b"GET / HTTP/1.1\r\nhost: a" + END),
    _fields("a connection option that is no token", b"host: a", b"connection: close, a b"),
    # Request line (RFC 9112 section 3)
    _line("fragment", b"GET /a#b HTTP/1.1"),
    _line("fragment of a query", b"GET /a?b#c HTTP/1.1"),
    _line("relative", b"GET a HTTP/1.1"),
    _line("relative dot", b"GET ./a HTTP/1.1"),
    _line("empty target", b"GET  HTTP/1.1"),
    _line("only a query", b"GET ?a HTTP/1.1"),
    _line("asterisk without OPTIONS", b"GET * HTTP/1.1"),
    _line("asterisk and more", b"OPTIONS *a HTTP/1.1"),
    _line("authority form", b"GET a:80 HTTP/1.1"),
    _line("another scheme", b"GET ftp://a/ HTTP/1.1"),
    _line("absolute without host", b"GET http:///a HTTP/1.1"),
    _line("absolute with userinfo", b"GET http://u@a/ HTTP/1.1"),
    _line("two spaces", b"GET  / HTTP/1.1"),
    _line("two spaces before the version", b"GET /  HTTP/1.1"),
    _line("tab", b"GET\t/ HTTP/1.1"),
    _line("space at the end", b"GET / HTTP/1.1 "),
    _line("space at the front", b" GET / HTTP/1.1"),
    _line("space in the target", b"GET /a b HTTP/1.1"),
    _line("no version", b"GET /"),
    _line("lower-case version", b"GET / http/1.1"),
    _line("short version", b"GET / HTTP/1"),
    _line("long version", b"GET / HTTP/1.10"),
    _line("no digits", b"GET / HTTP/x.y"),
    _line("HTTP/2.0", b"GET / HTTP/2.0", 505),
    _line("HTTP/1.2", b"GET / HTTP/1.2", 505),
    _line("HTTP/0.9", b"GET / HTTP/0.9", 505),
    _line("empty method", b" / HTTP/1.1"),
    _line("method with a colon", b"GET: / HTTP/1.1"),
    _line("method with a byte above 127", b"G\xcbT / HTTP/1.1"),
    *(
        _line(f"byte {byte:#04x} in the target", b"GET /" + bytes((byte,)) + b" HTTP/1.1")
        for byte in (0, 1, 9, 0x0B, 0x7F, 0x80, 0xFF, 0x3C)
    ),
    _line("CONNECT", b"CONNECT a:80 HTTP/1.1", 501),
    # Size
    _fields("a long field", b"host: a", b"x: " + b"y" * 70_000, status=431),
    _fields("a long name", b"host: a", b"y" * 70_000 + b": x", status=431),
    _fields("a megabyte", b"host: a", b"x: " + b"y" * 1_000_000, status=431),
    _fields("many fields", b"host: a", *(b"x-%d: y" % number for number in range(200)), status=431),
    _line("a long target", b"GET /" + b"a" * 20_000 + b" HTTP/1.1", 414),
    # Chunks (RFC 9112 section 7.1)
    _chunks("size of letters", b"xyz\r\nhello\r\n0" + END),
    _chunks("0x", b"0x5\r\nhello\r\n0" + END),
    _chunks("underscore", b"0_5\r\nhello\r\n0" + END),
    _chunks("plus", b"+5\r\nhello\r\n0" + END),
    _chunks("minus", b"-5\r\nhello\r\n0" + END),
    _chunks("space before", b" 5\r\nhello\r\n0" + END),
    _chunks("space after", b"5 \r\nhello\r\n0" + END),
    _chunks("tab after", b"5\t\r\nhello\r\n0" + END),
    _chunks("no size", b"\r\nhello\r\n0" + END),
    _chunks("overflow", b"FFFFFFFFFFFFFFFF0\r\nhello\r\n0" + END),
    _chunks("2^64 + 5", b"10000000000000005\r\nhello\r\n0" + END),
    _chunks("2^63", b"8000000000000000\r\nhello\r\n0" + END),
    _chunks("leading zeros without end", b"0" * 40 + b"5\r\nhello\r\n0" + END),
    _chunks("bare LF after the size", b"5\nhello\r\n0" + END),
    _chunks("bare CR after the size", b"5\rhello\r\n0" + END),
    _chunks("bare LF after the data", b"5\r\nhello\n0" + END),
    _chunks("no CRLF after the data", b"5\r\nhello0" + END),
    _chunks("more data than size", b"5\r\nhello!\r\n0" + END),
    _chunks("less data than size", b"6\r\nhello\r\n0" + END),
    _chunks("LF in an extension", b"5;\nxx\r\nhello\r\n0" + END),
    _chunks("LF in a named extension", b"5;a=b\nc\r\nhello\r\n0" + END),
    _chunks("CR in an extension", b"5;a\rb\r\nhello\r\n0" + END),
    _chunks("NUL in an extension", b"5;a\0b\r\nhello\r\n0" + END),
    _chunks("a huge extension", b"5;" + b"a" * 65_536 + b"\r\nhello\r\n0" + END),
    _chunks("many extensions", b"1;aaaaaaaaaaaaaaaaaaa\r\nx\r\n" * 2_000 + b"0" + END),
    _chunks("bare LF ends the body", b"0\r\n\n"),
    _chunks("bare LF after the last size", b"0\n\r\n"),
    _chunks("a bad trailer", b"0\r\nx y: z" + END),
    _chunks("a folded trailer", b"0\r\nx: y\r\n z" + END),
    _chunks("a trailer with a bare LF", b"0\r\nx: y\nz: w" + END),
    _chunks("a trailer with NUL", b"0\r\nx: \0" + END),
    _chunks("a trailer that frames", b"0\r\ncontent-length: 5" + END),
    _chunks("a trailer without colon", b"0\r\nxy" + END),
    _chunks(
        "too many trailers",
        b"0\r\n" + b"".join(b"x-%d: y\r\n" % number for number in range(200)) + b"\r\n",
        431,
    ),
    _chunks("a huge trailer", b"0\r\nx: " + b"y" * 70_000 + END, 431),
)

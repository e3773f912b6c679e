"""One small program per benchmarked server. Every one answers / on the port it is told.

Variants, the same for every server that has them (harness/wire.py says what is asked and what is right):
  hello      the body "hello"
  headers    the lengths of User-Agent, Accept-Language and Cookie, eight digits each (24 bytes)
  h2c, tls, http3   hello over HTTP/2 without TLS, HTTP/1.1 over TLS, HTTP/3
  memory, memory-tls, memory-h2c   hello, tls and h2c set up for 10,000 connections
  websocket  echo
  upload     the length of the body, which is read in chunks
  large      1 MiB
  stream     100 pieces of 10 KiB
"""

"""One small program per benchmarked server. Every one answers GET / on the port it is told.

Two variants, the same for every server that has them:
  hello    the body "hello"
  headers  the lengths of User-Agent, Accept-Language and Cookie, eight digits each (24 bytes)
"""

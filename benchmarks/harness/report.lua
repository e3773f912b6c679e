-- Prints the figures of a wrk run as one line of JSON. Times are in microseconds.
-- With WRK_REQUESTS=N in the environment the run ends after N requests instead of after its duration. That
-- costs wrk a Lua call per request, so `request` is not defined (and wrk's fast path stays) without it.
local limit = tonumber(os.getenv("WRK_REQUESTS") or "")
if limit then
   local ffi = require("ffi")
   ffi.cdef[[ int kill(int pid, int signal); int getpid(void); ]]
   local sent = 0
   function request()
      sent = sent + 1
      if sent == limit + 1 then
         wrk.thread:stop()                  -- ends this thread's loop, and
         ffi.C.kill(ffi.C.getpid(), 2)      -- wakes the main thread from its sleep, so the time is right
      end
      return wrk.format()
   end
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format(
      '\n{"requests":%d,"micros":%d,"bytes":%d,"p50":%d,"p95":%d,"p99":%d,"max":%d,' ..
      '"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}\n',
      summary.requests, summary.duration, summary.bytes,
      latency:percentile(50), latency:percentile(95), latency:percentile(99), latency.max,
      e.connect, e.read, e.write, e.timeout, e.status))
end

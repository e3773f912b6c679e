/* GENERATED from native/src by tools/generate_bindings.py (cbindgen). Do not edit: `make bindings` rewrites it.
 *
 * The C ABI of server_native. docs/abi.md is the same contract in prose. One native library serves any host language;
 * load it only when sn_abi_hash() == SN_ABI_HASH.
 */

#ifndef SERVER_NATIVE_H
#define SERVER_NATIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Identity of the ABI this header was written from: what sn_abi_hash() has to answer.
#define SN_ABI_HASH UINT64_C(0x3a6a42c1978d0cd3)

// `mode` of a Unix socket that the umask decides.
#define SN_MODE_UMASK 4294967295

// This record finishes its side of the stream.
#define SN_FLAG_END 1

// OPEN: the client waits for `100 Continue`; the first CREDIT (or an INFORM) sends it.
#define SN_FLAG_EXPECT 2

// OPEN: the peer offers another protocol (`Upgrade` of HTTP/1.1, extended CONNECT), which UPGRADE accepts.
#define SN_FLAG_UPGRADE 4

// DATA of a message stream: the message is text. UPGRADE: the stream carries WebSocket messages, not bytes.
#define SN_FLAG_TEXT 4

// DATA of a message stream: more of the same message follows.
#define SN_FLAG_MORE 8

// HEAD and DATA: the body is not in the arena but where a `sn_loan` there says.
#define SN_FLAG_LENT 16

// What each DATA of a message stream costs of credit and window besides its payload: empty messages are not free.
#define SN_MESSAGE_COST 64

// What an export answers. 0 ok, 1-9 outcomes, 10-99 the caller's fault, 100-199 the world's, 255 a panic. Append-only.
enum sn_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Done.
  SN_STATUS_OK = 0,
  // Nothing happened within the time given.
  SN_STATUS_TIMEOUT = 1,
  // The runtime has stopped and every event was taken.
  SN_STATUS_CLOSED = 2,
  // `sn_wake` was called.
  SN_STATUS_WOKEN = 3,
  // A null pointer, an impossible length, text that is not UTF-8, a record of unknown kind.
  SN_STATUS_INVALID_ARGUMENT = 10,
  // No such listener, batch or stream.
  SN_STATUS_NOT_FOUND = 11,
  // Another thread is inside `sn_next`, or too many commands wait.
  SN_STATUS_BUSY = 12,
  // The runtime is stopping and takes nothing new.
  SN_STATUS_STOPPING = 13,
  // A certificate, key or password cannot be used; the text names the file and the cause.
  SN_STATUS_BAD_CERTIFICATE = 14,
  // The address is in use.
  SN_STATUS_ADDRESS_IN_USE = 100,
  // The system refused for lack of permission.
  SN_STATUS_PERMISSION_DENIED = 101,
  // The host is not an address of this machine.
  SN_STATUS_ADDRESS_NOT_AVAILABLE = 102,
  // Any other failure of the system; the text has its errno.
  SN_STATUS_IO = 103,
  // A panic was caught; the text has its message.
  SN_STATUS_PANIC = 255,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum sn_status sn_status;
#else
typedef int32_t sn_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What the host answers.
enum sn_command
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint8_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Response head. code = status; payload = fields NUL-joined; `aux` bytes of body (LENT: a `sn_loan`) follow; END when
  // that is all. What is lent with END needs no window: the host has it all already.
  SN_COMMAND_HEAD = 1,
  // Bytes of body (LENT: a `sn_loan`); END when these are the last. Of a message stream: one message, or with MORE a piece
  // of one.
  SN_COMMAND_DATA = 2,
  // Our side is complete. payload = trailers, NUL-joined; of a message stream: code = close code (0: none), payload =
  // its reason.
  SN_COMMAND_END = 3,
  // Abandon the stream; the peer sees an abrupt end, never a clean one. code = `sn_reason`.
  SN_COMMAND_RESET = 4,
  // The host is ready for `aux` more bytes.
  SN_COMMAND_CREDIT = 5,
  // An interim response. code = 1xx; payload = fields NUL-joined.
  SN_COMMAND_INFORM = 6,
  // Accepts what the peer offered, or (code 0: nothing is written) takes the bytes over as they are. code = 101;
  // payload = fields; TEXT = WebSocket messages from now on; aux = bytes the host may send before WRITABLE (0: as
  // before). DATA and END mean the new protocol afterwards.
  SN_COMMAND_UPGRADE = 7,
  // Asks the peer of a message stream for a PONG. payload = up to 125 bytes.
  SN_COMMAND_PING = 9,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum sn_command sn_command;
#else
typedef uint8_t sn_command;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What native code tells.
enum sn_event
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint8_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // A connection begins to carry streams. parent = listener; payload = peer host, peer port, local host, local port,
  // scheme, NUL-joined; with TLS also version, cipher, ALPN protocol, server name, and the peer's chain in base64.
  SN_EVENT_ACCEPT = 1,
  // A stream begins. parent = connection; payload = line (`code` bytes: method, target, scheme, authority and, for an
  // extended CONNECT, protocol, NUL-joined) and fields (name, value, ... NUL-joined); `aux` bytes of body follow; END when that is all of it.
  SN_EVENT_OPEN = 2,
  // Bytes of body, or (TEXT, MORE) of a message.
  SN_EVENT_DATA = 3,
  // The peer's side is complete. payload = trailers, NUL-joined; of a message stream: code = close code, payload =
  // its reason, and nothing follows.
  SN_EVENT_END = 4,
  // The stream is over and nothing sent to it arrives any more. code = `sn_reason`.
  SN_EVENT_RESET = 5,
  // `aux` bytes of send window came back.
  SN_EVENT_WRITABLE = 6,
  // A connection or listener (or, with stream 0, the runtime) is gone.
  SN_EVENT_CLOSED = 7,
  // code = level (10 debug, 20 info, 30 warning, 40 error, as Python's logging); payload = text.
  SN_EVENT_LOG = 8,
  // The runtime is stopping: what is left in `aux` milliseconds is reset. stream = 0.
  SN_EVENT_DRAIN = 9,
  // The peer answered a PING. payload = what the ping carried.
  SN_EVENT_PONG = 13,
  // Loans that nobody reads any more. stream = 0; payload = their tokens, 8 bytes each.
  SN_EVENT_RETURNED = 14,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum sn_event sn_event;
#else
typedef uint8_t sn_event;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// OPEN: which protocol carries the stream, in the high nibble of `flags`.
enum sn_protocol
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint8_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // HTTP/1.0.
  SN_PROTOCOL_HTTP10 = 16,
  // HTTP/1.1.
  SN_PROTOCOL_HTTP11 = 32,
  // HTTP/2.
  SN_PROTOCOL_HTTP2 = 48,
  // HTTP/3.
  SN_PROTOCOL_HTTP3 = 64,
  // A bare byte stream.
  SN_PROTOCOL_TCP = 128,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum sn_protocol sn_protocol;
#else
typedef uint8_t sn_protocol;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Why a stream ended early, as `code` of RESET.
enum sn_reason
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint16_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // The peer closed or reset; nobody is there to read an answer.
  SN_REASON_GONE = 1,
  // The peer broke the protocol in the middle of the stream.
  SN_REASON_PROTOCOL = 2,
  // The peer was too slow (body rate, write stall).
  SN_REASON_TIMEOUT = 3,
  // A limit was passed (body size, flow-control window).
  SN_REASON_LIMIT = 4,
  // The runtime is stopping and the deadline has come.
  SN_REASON_STOPPING = 5,
  // The native side failed; a LOG event says how.
  SN_REASON_INTERNAL = 6,
  // The host gave the stream up.
  SN_REASON_CANCELLED = 7,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum sn_reason sn_reason;
#else
typedef uint16_t sn_reason;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// One host thread's hold on events.
typedef struct sn_batch sn_batch;

// A running core. Opaque; shareable between threads except where an export says otherwise.
typedef struct sn_runtime sn_runtime;

// Where the contents of a batch lie. Read by the host straight from memory, so that no call returns more than a status; it is
// always at the address that `sn_batch_new` has told, and good until the next `sn_next` on this batch.
typedef struct sn_batch_header {
  // Address of the records; 0 when there are none. 64 bits everywhere, so that the header has one layout.
  uint64_t records;
  // Address of their payloads; 0 when there are none.
  uint64_t arena;
  // How many records.
  uint32_t count;
  // How many bytes of payload.
  uint32_t length;
  // 1 when the watched descriptor became readable.
  uint32_t watched;
  // Reserved, 0.
  uint32_t reserved;
} sn_batch_header;

// How often each limit was applied since the start.
typedef struct sn_limit_counts {
  // 413 answered.
  uint64_t body_bytes;
  // Connections turned away.
  uint64_t connections;
  // Connections turned away.
  uint64_t connections_per_address;
  // 431 answered.
  uint64_t head_bytes;
  // 431 answered.
  uint64_t header_fields;
  // 414 answered.
  uint64_t uri_bytes;
  // Connections closed before their first byte.
  uint64_t detection_ms;
  // Heads that came too slowly.
  uint64_t head_ms;
  // Connections closed because they were idle.
  uint64_t idle_ms;
  // TLS and QUIC handshakes that took too long.
  uint64_t handshake_ms;
  // Bodies that came too slowly.
  uint64_t body_rate;
  // Connections and streams whose peer took nothing.
  uint64_t write_stall_ms;
  // Connections closed for their resets.
  uint64_t h2_pending_resets;
  // Connections closed for their resets.
  uint64_t h2_resets;
  // Connections whose peer answered no ping.
  uint64_t h2_ping_ms;
  // Field sections refused.
  uint64_t h3_field_section_bytes;
  // Connections closed for their resets.
  uint64_t h3_resets;
  // Connections given up in silence.
  uint64_t quic_idle_ms;
  // Clients asked to prove their address.
  uint64_t quic_handshakes;
  // Messages refused with close code 1009.
  uint64_t ws_message_bytes;
  // Connections whose peer answered no ping.
  uint64_t ws_ping_ms;
  // Closes the peer did not answer.
  uint64_t ws_close_ms;
} sn_limit_counts;

// Figures of a runtime as of now.
typedef struct sn_stats {
  // Connections open now.
  uint64_t connections;
  // Connections accepted since the start.
  uint64_t accepted;
  // Connections turned away by a limit.
  uint64_t refused;
  // Deadlines that fired (idle, head, body rate, write stall).
  uint64_t overdue;
  // Connections of which a stream is open now.
  uint64_t busy;
  // Streams open now.
  uint64_t streams;
  // Streams opened since the start.
  uint64_t opened;
  // Commands for streams that were over.
  uint64_t stale_commands;
  // Streams reset because more was sent than the window.
  uint64_t overflows;
  // LOG events left out because the queue was full.
  uint64_t logs_dropped;
  // Events waiting for `sn_next`.
  uint64_t queued_records;
  // Payload bytes waiting for `sn_next`.
  uint64_t queued_bytes;
  // 1 while a native thread drives because the host is slow (always 1 with `io_threads` = 1).
  uint64_t sticky;
  // How often each limit was applied.
  struct sn_limit_counts limited;
} sn_stats;

// Borrowed bytes, for the length of one call. `data` may be null when `length` is 0.
typedef struct sn_bytes {
  // First byte.
  const uint8_t *data;
  // How many.
  size_t length;
} sn_bytes;

// One certificate chain with its key.
typedef struct sn_identity {
  // PEM file: the server's certificate, then those that lead to a root.
  struct sn_bytes certificate_path;
  // PEM file: PKCS#8 (possibly encrypted), PKCS#1 or SEC1.
  struct sn_bytes key_path;
  // UTF-8, for an encrypted key; empty for none.
  struct sn_bytes password;
} sn_identity;

// What a TLS configuration is made of.
typedef struct sn_tls_options {
  // The first is used when no other matches the name a client asks for (SNI).
  const struct sn_identity *identities;
  // How many; at least 1.
  size_t identity_count;
  // PEM file of who may sign client certificates; empty for the platform's roots.
  struct sn_bytes client_ca_path;
  // Client certificates: 0 none asked for, 1 optional, 2 required.
  uint8_t clients;
} sn_tls_options;

// Limits of one listener.
typedef struct sn_limits {
  // Bytes of request body a request may carry; 413 beyond. 0 = none (a handler or flag sets one).
  uint64_t body_bytes;
  // Open connections of one listener; the next one gets 503 and a close.
  uint32_t connections;
  // Open connections from one address; 503 and a close beyond. 0 = none.
  uint32_t connections_per_address;
  // Bytes of one request head or trailer section; 431 beyond. Worst-case memory of an unread head.
  uint32_t head_bytes;
  // Header fields of one request; 431 beyond.
  uint32_t header_fields;
  // Bytes of the request target; 414 beyond.
  uint32_t uri_bytes;
  // Declared bodies up to this size are collected before the handler is told: one event, no pool thread.
  uint32_t inline_body_bytes;
  // Bytes of request body in flight to one handler before reading the socket stops.
  uint32_t receive_window;
  // Bytes of response body in flight from one handler before it must wait for WRITABLE.
  uint32_t send_window;
  // Milliseconds for the first byte and the decision between HTTP/1.1 and HTTP/2; then a silent close.
  uint32_t detection_ms;
  // Milliseconds from the first byte of a head to its last; 408 and a close.
  uint32_t head_ms;
  // Milliseconds a connection may stay without a request; silent close.
  uint32_t idle_ms;
  // Milliseconds for a TLS handshake.
  uint32_t handshake_ms;
  // Bytes per second a request body must reach while we are reading; 408 and a close. 0 = none.
  uint32_t body_rate;
  // Milliseconds before `body_rate` is asked for.
  uint32_t body_grace_ms;
  // Milliseconds a client may take nothing of a response that waits; the connection is reset. A stream of HTTP/2 or
  // HTTP/3 alone, while others of its connection move on.
  uint32_t write_stall_ms;
  // HTTP/2 SETTINGS_MAX_CONCURRENT_STREAMS.
  uint32_t h2_streams;
  // HTTP/2 SETTINGS_MAX_HEADER_LIST_SIZE in bytes; 431 beyond.
  uint32_t h2_header_list_bytes;
  // HTTP/2 flow-control window of streams and connections, in bytes.
  uint32_t h2_window;
  // HTTP/2 streams reset by the peer and not yet cleaned up; GOAWAY(ENHANCE_YOUR_CALM) beyond.
  uint32_t h2_pending_resets;
  // HTTP/2 requests reset by the peer within one second, once begun; GOAWAY(ENHANCE_YOUR_CALM) and the end of the
  // connection beyond. Not less than `h2_streams`: a browser that leaves a page cancels all it has asked for at once.
  uint32_t h2_resets;
  // HTTP/2 frame payload we accept, in bytes (16,384 to 16,777,215).
  uint32_t h2_frame_bytes;
  // Milliseconds between HTTP/2 pings on a quiet connection; also how long an answer may take. 0 = none.
  uint32_t h2_ping_ms;
  // HTTP/3 streams of one connection at a time; the client waits for MAX_STREAMS.
  uint32_t h3_streams;
  // Bytes of one HTTP/3 field section, decoded (RFC 9114 section 4.2.2); 431 beyond.
  uint32_t h3_field_section_bytes;
  // HTTP/3 requests reset by the peer within one second; the connection is closed (H3_EXCESSIVE_LOAD) beyond.
  uint32_t h3_resets;
  // Milliseconds of silence after which a QUIC connection is given up.
  uint32_t quic_idle_ms;
  // QUIC flow-control window of a connection, in bytes: what it may make us hold.
  uint32_t quic_window;
  // QUIC flow-control window of one stream, in bytes.
  uint32_t quic_stream_window;
  // QUIC handshakes under way beyond which new clients must prove their address (Retry). 0 = always.
  uint32_t quic_handshakes;
  // Bytes of one WebSocket message; close code 1009 beyond.
  uint64_t ws_message_bytes;
  // Bytes on their way to one WebSocket client before `send` waits: what a reader that never reads costs. A message
  // longer than half of it goes in pieces.
  uint32_t ws_write_bytes;
  // Milliseconds between WebSocket pings on a quiet connection; also how long an answer may take. 0 = none.
  uint32_t ws_ping_ms;
  // Milliseconds the peer may take to answer a WebSocket close.
  uint32_t ws_close_ms;
} sn_limits;

// How a listener is bound: to `descriptor`, else to `path`, else to `address` and `port`. Fill with
// `sn_listen_options_default`, then change what matters.
typedef struct sn_listen_options {
  // An IPv4 or IPv6 address in text; names are resolved by the host language.
  struct sn_bytes address;
  // Path of a Unix socket, in bytes as the file system has them; empty for none.
  struct sn_bytes path;
  // A stream socket somebody else has bound; duplicated. -1 for none.
  int descriptor;
  // Index of the interface that a link-local IPv6 address belongs to (RFC 4007); 0 for none.
  uint32_t scope;
  // Permission bits of the Unix socket; `SN_MODE_UMASK` leaves it to the umask.
  uint32_t mode;
  // 0 lets the system choose.
  uint16_t port;
  // An IPv6 listener takes no IPv4 connections.
  bool v6_only;
  // SO_REUSEPORT.
  bool shared;
  // HTTP/2 is spoken next to HTTP/1.1: with prior knowledge, or negotiated when there is TLS.
  bool http2;
  // HTTP/3 is spoken on the same UDP port, if there is TLS.
  bool http3;
  // Connections the kernel keeps waiting.
  uint32_t backlog;
  // Certificates, from `sn_tls_new`; 0 is cleartext.
  uint64_t tls;
  // Limits of the listener and its connections.
  struct sn_limits limits;
} sn_listen_options;

// Body bytes the host keeps for us instead of copying them. Of HEAD with LENT, the arena holds one in their place; of DATA
// one or more, each as a DATA of its own. All of them come back together, by the token of the first.
//
// The memory must neither change nor go before RETURNED names the token, or `sn_free` has returned.
typedef struct sn_loan {
  // Where the first byte is.
  uint64_t address;
  // How many there are; never 0.
  uint64_t length;
  // What the host knows the loan by, not 0; 0 of the second and later ones.
  uint64_t token;
} sn_loan;

// One event or one command. Payloads lie in the arena that travels with the records.
//
// `payload = arena[offset..offset + length]`; OPEN and HEAD are followed by `aux` bytes of body.
typedef struct sn_record {
  // The stream this is about; 0 is the runtime itself. Ids are never reused.
  uint64_t stream;
  // What the stream belongs to: listener of a connection, connection of an HTTP exchange, session of a call.
  uint64_t parent;
  // Where the payload starts in the arena.
  uint32_t offset;
  // Bytes of payload.
  uint32_t length;
  // An `sn_event` or a `sn_command`.
  uint8_t kind;
  // `END`, `EXPECT`, and the protocol in the high nibble of OPEN.
  uint8_t flags;
  // Per kind: status code, `sn_reason`, log level, length of the request line.
  uint16_t code;
  // Per kind: bytes of body after the head, bytes of credit, milliseconds.
  uint32_t aux;
} sn_record;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library, NUL-terminated; never freed.
const char *sn_version(void);

// Identity of the ABI: a hash of the sources that define it, computed by the build. Load compares it.
uint64_t sn_abi_hash(void);

// Copies the sentence of this thread's last status that was not OK into `buffer` (cut to `capacity`, not NUL-terminated).
// Answers its whole length in bytes of UTF-8.
//
// # Safety
// `buffer` is null or has `capacity` writable bytes.
size_t sn_last_error(uint8_t *buffer,
                     size_t capacity);

// Starts a runtime. `io_threads` 0: the thread in `sn_next` drives; 1: one native thread does; N: N threads do.
//
// # Safety
// `out_runtime` is null or writable.
sn_status sn_start(uint32_t io_threads, struct sn_runtime **out_runtime);

// Begins a graceful stop and returns at once: no new connections, what is in flight has `grace_ms`, handlers get DRAIN
// before the deadline. Calling again can only hasten it. `sn_next` answers CLOSED when all is over.
//
// # Safety
// `runtime` is null or live.
sn_status sn_stop(const struct sn_runtime *runtime, uint32_t grace_ms);

// Frees a runtime: ends its tasks, joins its threads. Null is fine. No other thread may be inside any export with it.
// May block for a moment: call without holding an interpreter lock.
//
// # Safety
// `runtime` is null or live, and not used afterwards.
sn_status sn_free(struct sn_runtime *runtime);

// Makes an empty batch and says where its header lies. One thread at a time may use a batch.
//
// # Safety
// Pointers are null or writable.
sn_status sn_batch_new(struct sn_batch **out_batch, const struct sn_batch_header **out_header);

// Frees a batch. Null is fine.
//
// # Safety
// `batch` is null or live, and neither it nor its memory is used afterwards.
sn_status sn_batch_free(struct sn_batch *batch);

// Takes events into `batch`, driving the sockets when `io_threads` is 0. Blocks up to `timeout_us` microseconds
// (0 polls once, negative waits without end): call without holding an interpreter lock. One thread at a time per runtime;
// others get BUSY. TIMEOUT, WOKEN and CLOSED come with an empty batch.
//
// # Safety
// Pointers are null or live; `batch` is used by no other thread.
sn_status sn_next(const struct sn_runtime *runtime,
                  struct sn_batch *batch,
                  int64_t timeout_us);

// Hands over commands; copied before it returns but for what they lend, never blocks, so it may be called with an interpreter lock held. Nothing is
// taken when a record is wrong, and BUSY is answered when far more waits than any window allows. Commands for streams that
// are over are counted, not refused.
//
// # Safety
// `records` has `count` records and `arena` has `arena_length` bytes, unless null. What a record with LENT points to is there,
// and does not change, until RETURNED names its token or `sn_free` has returned.
sn_status sn_submit(const struct sn_runtime *runtime,
                    const uint8_t *records,
                    size_t count,
                    const uint8_t *arena,
                    size_t arena_length);

// Makes the current or next `sn_next` return: WOKEN, or OK with events and WOKEN from the one after. From any thread; never
// blocks.
//
// # Safety
// `runtime` is null or live.
sn_status sn_wake(const struct sn_runtime *runtime);

// Watches a descriptor: `sn_next` returns and sets `watched` in the batch header when it became readable (an edge: read
// until nothing is left before relying on it again). Duplicated, so the caller keeps its own. -1 watches nothing.
//
// # Safety
// `runtime` is null or live; `descriptor` is -1 or open.
sn_status sn_watch(const struct sn_runtime *runtime, int descriptor);

// Signals a descriptor: 8 bytes (an eventfd's one) are written to it when events wait after an `sn_next` with timeout 0, once
// until the next such call. For event loops that are not ours. Duplicated. -1 signals nothing.
//
// # Safety
// `runtime` is null or live; `descriptor` is -1 or open.
sn_status sn_signal(const struct sn_runtime *runtime,
                    int descriptor);

// Fills `out_stats`.
//
// # Safety
// Pointers are null or live.
sn_status sn_debug_stats(const struct sn_runtime *runtime, struct sn_stats *out_stats);

// Reads certificates and keys. The id serves any listener of this runtime, for TCP and QUIC alike, and lasts as long as it.
// BAD_CERTIFICATE names the file and the cause.
//
// # Safety
// Pointers are null or live; `identities` has `identity_count`; each `sn_bytes` has its length.
sn_status sn_tls_new(const struct sn_runtime *runtime,
                     const struct sn_tls_options *options,
                     uint64_t *out_tls);

// Reads the files of a TLS configuration again: connections from now on use them, the others go on. When anything is wrong
// with them the old ones stay.
//
// # Safety
// `runtime` is null or live.
sn_status sn_tls_reload(const struct sn_runtime *runtime,
                        uint64_t tls);

// Fills `out_options` with the defaults.
//
// # Safety
// `out_options` is null or writable.
sn_status sn_listen_options_default(struct sn_listen_options *out_options);

// Binds a listener. It has its address from now on and accepts after `sn_listen`.
//
// # Safety
// Pointers are null or live; each `sn_bytes` has its length; `options.descriptor` is -1 or open.
sn_status sn_bind(const struct sn_runtime *runtime, const struct sn_listen_options *options, uint64_t *out_listener);

// Copies a bound listener's `address` (text, as `127.0.0.1:8080`, `[::1]:8080` or `unix:/path`) into `buffer`,
// cut to `capacity`.
//
// # Safety
// `buffer` has `capacity` writable bytes.
sn_status sn_listener_address(const struct sn_runtime *runtime,
                              uint64_t listener,
                              uint8_t *buffer,
                              size_t capacity,
                              size_t *out_length);

// Answers GET and HEAD of `path` natively. `fields` are NUL-joined names and values; copied. Before `sn_listen` only.
//
// # Safety
// Pointers are null or live; each `sn_bytes` has its length.
sn_status sn_route(const struct sn_runtime *runtime,
                   uint64_t listener,
                   struct sn_bytes path,
                   uint16_t status,
                   struct sn_bytes fields,
                   struct sn_bytes body);

// Starts to accept on a bound listener.
//
// # Safety
// `runtime` is null or live.
sn_status sn_listen(const struct sn_runtime *runtime, uint64_t listener);

// Closes a listener, accepting or only bound. Its connections go on; CLOSED is told for one that accepted.
//
// # Safety
// `runtime` is null or live.
sn_status sn_close(const struct sn_runtime *runtime, uint64_t listener);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SERVER_NATIVE_H */

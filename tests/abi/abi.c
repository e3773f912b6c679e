/* Calls every export of the native library as a C host would: what is wrong answers a status and a sentence and never
 * crashes, what is right serves HTTP over loopback. Built and run by test_abi.py; prints what it did, exits 1 at the
 * first surprise. Arguments: none. */

#define _POSIX_C_SOURCE 200809L

#include <arpa/inet.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server_native.h"

static const char *step = "start";

static void fail(int line, const char *what) {
  fprintf(stderr, "abi.c:%d: %s: %s\n", line, step, what);
  exit(1);
}

#define CHECK(condition) ((condition) ? (void)0 : fail(__LINE__, #condition))

/* A call that must answer `status` and leave a sentence with `part` in it. */
#define REFUSED(call, status, part) refused(__LINE__, #call, (call), (status), (part))
#define OK(call) answered(__LINE__, #call, (call), SN_STATUS_OK)

static const char *last_error(void) {
  static _Thread_local char text[512];
  size_t length = sn_last_error((uint8_t *)text, sizeof text - 1);
  text[length < sizeof text ? length : sizeof text - 1] = 0;
  return text;
}

static void answered(int line, const char *call, int found, int wanted) {
  if (found == wanted) return;
  fprintf(stderr, "abi.c:%d: %s: %s answered %d, not %d: %s\n", line, step, call, found, wanted, last_error());
  exit(1);
}

static void refused(int line, const char *call, int found, int wanted, const char *part) {
  answered(line, call, found, wanted);
  if (strstr(last_error(), part)) return;
  fprintf(stderr, "abi.c:%d: %s: %s said \"%s\", not \"%s\"\n", line, step, call, last_error(), part);
  exit(1);
}

static sn_bytes text(const char *chars) {
  return (sn_bytes){.data = (const uint8_t *)chars, .length = strlen(chars)};
}

static sn_listen_options loopback(void) {
  sn_listen_options options;
  memset(&options, 0xff, sizeof options); /* nothing of it is read */
  OK(sn_listen_options_default(&options));
  return options;
}

/* --- what is wrong ------------------------------------------------------------------------------------------------ */

static void identity(void) {
  step = "identity";
  CHECK(sn_abi_hash() == SN_ABI_HASH);
  CHECK(sn_version() != NULL && strlen(sn_version()) >= strlen("0.0.0"));
  CHECK(sizeof(sn_record) == 32);
  CHECK(sizeof(sn_status) == 4 && sizeof(sn_event) == 1 && sizeof(sn_command) == 1 && sizeof(sn_reason) == 2);
  printf("version %s\n", sn_version());
}

static void nulls(sn_runtime *runtime, sn_batch *batch) {
  step = "null";
  const int invalid = SN_STATUS_INVALID_ARGUMENT;
  sn_listen_options options = loopback();
  const sn_batch_header *header;
  sn_batch *other = NULL;
  sn_stats stats;
  uint64_t listener = 0;
  uint8_t buffer[64];
  size_t length = 0;

  REFUSED(sn_start(0, NULL), invalid, "out_runtime is null");
  CHECK(sn_last_error(NULL, 0) == strlen("out_runtime is null"));
  CHECK(sn_last_error(NULL, SIZE_MAX) == strlen("out_runtime is null"));
  memset(buffer, '#', sizeof buffer);
  CHECK(sn_last_error(buffer, 3) == strlen("out_runtime is null") && memcmp(buffer, "out#", 4) == 0);

  REFUSED(sn_stop(NULL, 0), invalid, "runtime is null");
  REFUSED(sn_listen_options_default(NULL), invalid, "out_options is null");
  uint64_t tls = 0;
  sn_tls_options certificates = {NULL, 1, {NULL, 0}, 0};
  REFUSED(sn_tls_new(NULL, &certificates, &tls), invalid, "runtime is null");
  REFUSED(sn_tls_new(runtime, NULL, &tls), invalid, "options is null");
  REFUSED(sn_tls_new(runtime, &certificates, NULL), invalid, "out_tls is null");
  REFUSED(sn_tls_new(runtime, &certificates, &tls), invalid, "options.identities is null");
  certificates.identity_count = 0;
  REFUSED(sn_tls_new(runtime, &certificates, &tls), SN_STATUS_BAD_CERTIFICATE, "found none");
  REFUSED(sn_tls_reload(NULL, 1), invalid, "runtime is null");
  REFUSED(sn_tls_reload(runtime, 1), SN_STATUS_NOT_FOUND, "no TLS configuration has the id 1");
  REFUSED(sn_bind(NULL, &options, &listener), invalid, "runtime is null");
  REFUSED(sn_bind(runtime, NULL, &listener), invalid, "options is null");
  REFUSED(sn_bind(runtime, &options, NULL), invalid, "out_listener is null");
  options.address = (sn_bytes){NULL, 9};
  REFUSED(sn_bind(runtime, &options, &listener), invalid, "options.address is null with a length of 9");
  options = loopback();
  OK(sn_bind(runtime, &options, &listener));
  REFUSED(sn_listener_address(NULL, listener, buffer, sizeof buffer, &length), invalid, "runtime is null");
  REFUSED(sn_listener_address(runtime, listener, NULL, sizeof buffer, &length), invalid, "buffer is null");
  REFUSED(sn_listener_address(runtime, listener, buffer, sizeof buffer, NULL), invalid, "out_length is null");
  const sn_bytes empty = {NULL, 0}, missing = {NULL, 1};
  REFUSED(sn_route(NULL, listener, text("/"), 200, empty, empty), invalid, "runtime is null");
  REFUSED(sn_route(runtime, listener, missing, 200, empty, empty), invalid, "path is null");
  REFUSED(sn_route(runtime, listener, text("/"), 200, missing, empty), invalid, "fields is null");
  REFUSED(sn_route(runtime, listener, text("/"), 200, empty, missing), invalid, "body is null");
  REFUSED(sn_listen(NULL, listener), invalid, "runtime is null");
  REFUSED(sn_close(NULL, listener), invalid, "runtime is null");
  OK(sn_close(runtime, listener));

  REFUSED(sn_batch_new(NULL, &header), invalid, "out_batch is null");
  REFUSED(sn_batch_new(&other, NULL), invalid, "out_header is null");
  CHECK(other == NULL);
  REFUSED(sn_next(NULL, batch, 0), invalid, "runtime is null");
  REFUSED(sn_next(runtime, NULL, 0), invalid, "batch is null");
  REFUSED(sn_submit(NULL, NULL, 0, NULL, 0), invalid, "runtime is null");
  REFUSED(sn_submit(runtime, NULL, 1, NULL, 0), invalid, "records is null");
  REFUSED(sn_submit(runtime, NULL, 0, NULL, 1), invalid, "arena is null");
  OK(sn_submit(runtime, NULL, 0, NULL, 0));
  REFUSED(sn_wake(NULL), invalid, "runtime is null");
  REFUSED(sn_watch(NULL, -1), invalid, "runtime is null");
  REFUSED(sn_signal(NULL, -1), invalid, "runtime is null");
  REFUSED(sn_debug_stats(NULL, &stats), invalid, "runtime is null");
  REFUSED(sn_debug_stats(runtime, NULL), invalid, "out_stats is null");
  OK(sn_free(NULL));
  OK(sn_batch_free(NULL));
}

static void stale_ids(sn_runtime *runtime) {
  step = "stale id";
  sn_listen_options options = loopback();
  uint64_t listener = 0;
  uint8_t buffer[64];
  size_t length = 4711;
  OK(sn_bind(runtime, &options, &listener));
  OK(sn_close(runtime, listener));
  const uint64_t ids[] = {listener, 0, 12345, UINT64_MAX};
  for (size_t index = 0; index < sizeof ids / sizeof *ids; index++) {
    REFUSED(sn_listen(runtime, ids[index]), SN_STATUS_NOT_FOUND, "listener");
    REFUSED(sn_close(runtime, ids[index]), SN_STATUS_NOT_FOUND, "listener");
    REFUSED(sn_listener_address(runtime, ids[index], buffer, sizeof buffer, &length), SN_STATUS_NOT_FOUND, "listener");
    REFUSED(sn_route(runtime, ids[index], text("/"), 200, text(""), text("")), SN_STATUS_NOT_FOUND, "listener");
  }
  CHECK(length == 4711); /* outputs are written on success only */
}

static void lengths(sn_runtime *runtime) {
  step = "length";
  const int invalid = SN_STATUS_INVALID_ARGUMENT;
  const uint8_t byte = 0;
  const sn_bytes huge = {&byte, SIZE_MAX};
  sn_listen_options options = loopback();
  uint64_t listener = 0;
  OK(sn_bind(runtime, &options, &listener));
  REFUSED(sn_route(runtime, listener, huge, 200, text(""), text("")), invalid, "path has an impossible length");
  REFUSED(sn_route(runtime, listener, text("/"), 200, huge, text("")), invalid, "fields has an impossible length");
  REFUSED(sn_route(runtime, listener, text("/"), 200, text(""), huge), invalid, "body has an impossible length");
  REFUSED(sn_route(runtime, listener, text("/"), 99, text(""), text("")), invalid, "found 99");
  REFUSED(sn_route(runtime, listener, text("/"), 200, text("odd"), text("")), invalid, "");
  OK(sn_close(runtime, listener));
  options.address = huge;
  REFUSED(sn_bind(runtime, &options, &listener), invalid, "options.address has an impossible length");

  sn_record record = {.stream = 1, .kind = SN_COMMAND_HEAD, .code = 200};
  const uint8_t *records = (const uint8_t *)&record;
  REFUSED(sn_submit(runtime, records, SIZE_MAX, NULL, 0), invalid, "records");
  REFUSED(sn_submit(runtime, records, SIZE_MAX / sizeof record + 2, NULL, 0), invalid, "records");
  REFUSED(sn_submit(runtime, records, 0, &byte, SIZE_MAX), invalid, "bytes");
  record.offset = record.length = UINT32_MAX;
  REFUSED(sn_submit(runtime, records, 1, &byte, 1), invalid, "command 0");
  record.offset = 0, record.length = 2;
  REFUSED(sn_submit(runtime, records, 1, &byte, 1), invalid, "command 0");
  record.length = 1, record.aux = UINT32_MAX;
  REFUSED(sn_submit(runtime, records, 1, &byte, 1), invalid, "command 0");
  const sn_loan nowhere = {.address = 0, .length = 1, .token = 1}, nothing = {.address = 1, .length = 0, .token = 1};
  const sn_loan unnamed = {.address = 1, .length = 1, .token = 0};
  record = (sn_record){.stream = 1, .kind = SN_COMMAND_DATA, .flags = SN_FLAG_LENT, .length = sizeof nowhere};
  REFUSED(sn_submit(runtime, records, 1, (const uint8_t *)&nowhere, sizeof nowhere), invalid, "loan 0 must have");
  REFUSED(sn_submit(runtime, records, 1, (const uint8_t *)&nothing, sizeof nothing), invalid, "loan 0 must have");
  REFUSED(sn_submit(runtime, records, 1, (const uint8_t *)&unnamed, sizeof unnamed), invalid, "loan 0 must have");
  record.length = 4;
  REFUSED(sn_submit(runtime, records, 1, (const uint8_t *)&nowhere, sizeof nowhere), invalid, "DATA one or more");
  record.kind = SN_COMMAND_END, record.length = sizeof nowhere;
  REFUSED(sn_submit(runtime, records, 1, (const uint8_t *)&nowhere, sizeof nowhere), invalid, "only HEAD and DATA lend");
  record = (sn_record){.stream = 1, .kind = 200};
  REFUSED(sn_submit(runtime, records, 1, &byte, 1), invalid, "command 0");
}

static void addresses(sn_runtime *runtime) {
  step = "address";
  static const char *const wrong[] = {"localhost", "not an address", "", "127.0.0.1:80", "[::1]", "127.0.0.1 ", "1.2.3"};
  sn_listen_options options = loopback();
  uint64_t listener = 0;
  for (size_t index = 0; index < sizeof wrong / sizeof *wrong; index++) {
    options.address = text(wrong[index]);
    REFUSED(sn_bind(runtime, &options, &listener), SN_STATUS_INVALID_ARGUMENT, "must be an IPv4 or IPv6 address");
  }
  options.address = text("\xff\xfe");
  REFUSED(sn_bind(runtime, &options, &listener), SN_STATUS_INVALID_ARGUMENT, "options.address is not UTF-8");
  options.address = (sn_bytes){(const uint8_t *)"127.0.0.1\0", 10};
  REFUSED(sn_bind(runtime, &options, &listener), SN_STATUS_INVALID_ARGUMENT, "must be an IPv4 or IPv6 address");
  options.address = text("203.0.113.1"); /* TEST-NET-3, never ours */
  REFUSED(sn_bind(runtime, &options, &listener), SN_STATUS_ADDRESS_NOT_AVAILABLE, "203.0.113.1");

  options = loopback();
  options.limits.connections = 0;
  REFUSED(sn_bind(runtime, &options, &listener), SN_STATUS_INVALID_ARGUMENT, "connections");

  options = loopback();
  OK(sn_bind(runtime, &options, &listener));
  char address[64] = {0};
  size_t length = 0;
  OK(sn_listener_address(runtime, listener, (uint8_t *)address, sizeof address, &length));
  CHECK(length == strlen(address) && strncmp(address, "127.0.0.1:", 10) == 0);
  size_t whole = 0;
  OK(sn_listener_address(runtime, listener, (uint8_t *)address, 3, &whole));
  CHECK(whole == length);
  options.port = (uint16_t)atoi(strchr(address, ':') + 1);
  uint64_t second = 0;
  REFUSED(sn_bind(runtime, &options, &second), SN_STATUS_ADDRESS_IN_USE, address);
  CHECK(second == 0);
  OK(sn_close(runtime, listener));
}

static void descriptors(sn_runtime *runtime) {
  step = "descriptor";
  REFUSED(sn_watch(runtime, 1 << 20), SN_STATUS_IO, "descriptor 1048576");
  REFUSED(sn_signal(runtime, 1 << 20), SN_STATUS_IO, "descriptor 1048576");
  OK(sn_watch(runtime, -1));
  OK(sn_signal(runtime, -1));
}

/* --- who is inside ------------------------------------------------------------------------------------------------ */

struct inside {
  sn_runtime *runtime;
  sn_batch *batch;
  int status;
};

static void *wait_inside(void *argument) {
  struct inside *inside = argument;
  do inside->status = sn_next(inside->runtime, inside->batch, -1);
  while (inside->status == SN_STATUS_BUSY);
  return NULL;
}

static void waking(sn_runtime *runtime, sn_batch *batch, const sn_batch_header *header) {
  step = "wake and busy";
  answered(__LINE__, "sn_next", sn_next(runtime, batch, 0), SN_STATUS_TIMEOUT);
  answered(__LINE__, "sn_next", sn_next(runtime, batch, 1000), SN_STATUS_TIMEOUT);
  CHECK(header->count == 0);
  OK(sn_wake(runtime));
  answered(__LINE__, "sn_next", sn_next(runtime, batch, -1), SN_STATUS_WOKEN);

  sn_batch *other = NULL;
  const sn_batch_header *other_header;
  OK(sn_batch_new(&other, &other_header));
  struct inside inside = {runtime, other, -1};
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, wait_inside, &inside) == 0);
  int status;
  while ((status = sn_next(runtime, batch, 0)) == SN_STATUS_TIMEOUT) sched_yield();
  answered(__LINE__, "sn_next", status, SN_STATUS_BUSY);
  CHECK(strlen(last_error()) > 0);
  OK(sn_wake(runtime));
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(inside.status == SN_STATUS_WOKEN);
  OK(sn_batch_free(other));
}

/* --- what is right ------------------------------------------------------------------------------------------------ */

struct client {
  sn_runtime *runtime;
  atomic_int *replied;
  uint16_t port;
  const char *request;
  char reply[4096];
};

static void *exchange(void *argument) {
  struct client *client = argument;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(client->port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int descriptor = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(descriptor >= 0);
  CHECK(connect(descriptor, (struct sockaddr *)&address, sizeof address) == 0);
  CHECK(write(descriptor, client->request, strlen(client->request)) == (ssize_t)strlen(client->request));
  size_t filled = 0;
  for (;;) {
    ssize_t count = read(descriptor, client->reply + filled, sizeof client->reply - 1 - filled);
    CHECK(count >= 0);
    if (count == 0) break;
    filled += (size_t)count;
  }
  client->reply[filled] = 0;
  close(descriptor);
  atomic_fetch_add(client->replied, 1);
  OK(sn_wake(client->runtime));
  return NULL;
}

#define TOKEN 0x0123456789abcdefu

static void answer(sn_runtime *runtime, const sn_record *open, const uint8_t *arena) {
  static const char line[] = "POST\0/path?query\0http\0example.test";
  CHECK(open->flags & SN_FLAG_END);
  CHECK((open->flags & 0xf0) == SN_PROTOCOL_HTTP11);
  CHECK(open->code >= sizeof line - 1 && memcmp(arena + open->offset, line, sizeof line - 1) == 0);
  CHECK(open->aux == 4 && memcmp(arena + open->offset + open->length, "ping", 4) == 0);

  static const char fields[] = "content-type\0text/plain\0x-abi\0yes", body[] = "pong";
  const sn_loan loan = {.address = (uintptr_t)body, .length = 4, .token = TOKEN};
  sn_record head = {.stream = open->stream, .kind = SN_COMMAND_HEAD, .code = 201};
  head.flags = SN_FLAG_END | SN_FLAG_LENT;
  head.length = sizeof fields - 1, head.aux = sizeof loan;
  /* Hosts pack records into byte strings: no alignment is asked for, and nothing but the loan is kept after the call. */
  const size_t size = head.length + sizeof loan;
  uint8_t packed[1 + sizeof head], *copy = malloc(size);
  memcpy(packed + 1, &head, sizeof head);
  memcpy(copy, fields, head.length);
  memcpy(copy + head.length, &loan, sizeof loan);
  OK(sn_submit(runtime, packed + 1, 1, copy, size));
  memset(packed, 0xff, sizeof packed);
  memset(copy, 0xff, size);
  free(copy);
}

static void serve(uint32_t io_threads) {
  static char name[32];
  snprintf(name, sizeof name, "serve, io_threads %u", io_threads);
  step = name;
  sn_runtime *runtime = NULL;
  sn_batch *batch = NULL;
  const sn_batch_header *header = NULL;
  uint64_t listener = 0;
  OK(sn_start(io_threads, &runtime));
  OK(sn_batch_new(&batch, &header));
  CHECK(header->count == 0 && header->records == 0 && header->arena == 0);

  sn_listen_options options = loopback();
  OK(sn_bind(runtime, &options, &listener));
  OK(sn_route(runtime, listener, text("/health"), 200, text(""), text("fine")));
  char address[64] = {0};
  size_t length = 0;
  OK(sn_listener_address(runtime, listener, (uint8_t *)address, sizeof address, &length));
  OK(sn_listen(runtime, listener));
  REFUSED(sn_route(runtime, listener, text("/late"), 200, text(""), text("")), SN_STATUS_NOT_FOUND, "listener");

  const uint16_t port = (uint16_t)atoi(strchr(address, ':') + 1);
  static struct client asking, probing;
  static atomic_int replied;
  atomic_store(&replied, 0);
  asking = (struct client){.runtime = runtime, .replied = &replied, .port = port};
  asking.request =
      "POST /path?query HTTP/1.1\r\nHost: example.test\r\nConnection: close\r\nContent-Length: 4\r\n\r\nping";
  probing = (struct client){.runtime = runtime, .replied = &replied, .port = port};
  probing.request = "GET /health HTTP/1.1\r\nHost: example.test\r\nConnection: close\r\n\r\n";
  pthread_t threads[2];
  CHECK(pthread_create(&threads[0], NULL, exchange, &asking) == 0);
  CHECK(pthread_create(&threads[1], NULL, exchange, &probing) == 0);

  int accepted = 0, opened = 0, returned = 0, connections_closed = 0, listener_closed = 0, drained = 0, stopping = 0;
  uint64_t stream = 0;
  for (;;) {
    int status = sn_next(runtime, batch, 10 * 1000 * 1000);
    if (status == SN_STATUS_CLOSED) break;
    if (status == SN_STATUS_WOKEN) CHECK(header->count == 0);
    else OK(status);
    const sn_record *all = (const sn_record *)(uintptr_t)header->records;
    const uint8_t *arena = (const uint8_t *)(uintptr_t)header->arena;
    for (uint32_t index = 0; index < header->count; index++) {
      const sn_record *record = &all[index];
      CHECK((uint64_t)record->offset + record->length <= header->length);
      switch (record->kind) {
        case SN_EVENT_ACCEPT:
          CHECK(record->parent == listener);
          CHECK(memcmp(arena + record->offset, "127.0.0.1", 10) == 0);
          accepted++;
          break;
        case SN_EVENT_OPEN:
          opened++;
          stream = record->stream;
          answer(runtime, record, arena);
          break;
        case SN_EVENT_CLOSED:
          if (record->stream == listener) listener_closed++;
          else if (record->stream != 0) connections_closed++;
          break;
        case SN_EVENT_DRAIN:
          drained++;
          break;
        case SN_EVENT_RETURNED: {
          uint64_t token = 0;
          CHECK(record->stream == 0 && record->length == sizeof token);
          memcpy(&token, arena + record->offset, sizeof token);
          CHECK(token == TOKEN);
          returned++;
          break;
        }
        default:
          fprintf(stderr, "event %u: %.*s\n", record->kind, (int)record->length, arena + record->offset);
          fail(__LINE__, "an event nobody expects");
      }
    }
    /* A wake may arrive together with events, so what it was for is looked at after every return. */
    if (atomic_load(&replied) < 2 || connections_closed < accepted || stopping) continue;
    sn_stats stats;
    if (stream) {
      /* Commands for a stream that is over are counted, not refused. */
      const sn_record late = {.stream = stream, .kind = SN_COMMAND_DATA};
      OK(sn_submit(runtime, (const uint8_t *)&late, 1, NULL, 0));
      stream = 0;
    }
    OK(sn_debug_stats(runtime, &stats));
    if (stats.stale_commands == 0) OK(sn_wake(runtime));
    else stopping = 1, OK(sn_stop(runtime, 2000));
  }
  CHECK(pthread_join(threads[0], NULL) == 0);
  CHECK(pthread_join(threads[1], NULL) == 0);
  CHECK(stopping && opened == 1 && returned == 1 && listener_closed == 1 && connections_closed == accepted);
  CHECK(strncmp(asking.reply, "HTTP/1.1 201 Created\r\n", 22) == 0);
  CHECK(strstr(asking.reply, "\r\nx-abi: yes\r\n") && strstr(asking.reply, "\r\ncontent-length: 4\r\n"));
  CHECK(strstr(asking.reply, "\r\n\r\npong"));
  CHECK(strncmp(probing.reply, "HTTP/1.1 200 OK\r\n", 17) == 0);
  CHECK(strstr(probing.reply, "\r\n\r\nfine"));

  sn_stats stats;
  OK(sn_debug_stats(runtime, &stats));
  CHECK(stats.connections == 0 && stats.streams == 0 && stats.accepted == 2 && stats.opened == 1);
  CHECK(stats.stale_commands == 1);
  printf("io_threads %u: %d connections told, %d drain notices\n", io_threads, accepted, drained);
  answered(__LINE__, "sn_next", sn_next(runtime, batch, 0), SN_STATUS_CLOSED);
  REFUSED(sn_bind(runtime, &options, &listener), SN_STATUS_STOPPING, "stop");
  OK(sn_free(runtime));
  OK(sn_batch_free(batch));
}

static void free_without_stop(uint32_t io_threads) {
  step = "free without stop";
  sn_runtime *runtime = NULL;
  uint64_t bound = 0, accepting = 0;
  OK(sn_start(io_threads, &runtime));
  sn_listen_options options = loopback();
  OK(sn_bind(runtime, &options, &bound));
  OK(sn_bind(runtime, &options, &accepting));
  OK(sn_listen(runtime, accepting));
  OK(sn_free(runtime));
}

int main(void) {
  identity();
  sn_runtime *runtime = NULL;
  REFUSED(sn_start(UINT32_MAX, &runtime), SN_STATUS_INVALID_ARGUMENT, "io_threads");
  CHECK(runtime == NULL);
  for (uint32_t io_threads = 0; io_threads <= 2; io_threads++) {
    sn_batch *batch = NULL;
    const sn_batch_header *header;
    OK(sn_start(io_threads, &runtime));
    OK(sn_batch_new(&batch, &header));
    nulls(runtime, batch);
    stale_ids(runtime);
    lengths(runtime);
    addresses(runtime);
    descriptors(runtime);
    waking(runtime, batch, header);
    OK(sn_batch_free(batch));
    OK(sn_free(runtime));
    serve(io_threads);
    free_without_stop(io_threads);
  }
  puts("ok");
  return 0;
}

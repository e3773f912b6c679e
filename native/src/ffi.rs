//! Every exported symbol, and the only `unsafe` of the crate. docs/abi.md is the contract in prose.
//!
//! Conventions: the first parameter is the object, then inputs, then outputs (`out_`), written only on success. Every
//! fallible export answers an `sn_status`; the sentence is in [`sn_last_error`] of the same thread. Each body runs in
//! [`guard`]: a panic becomes status 255. Null, an unknown id or an impossible length is a status, never a crash; a pointer
//! that is neither null nor what the header says is the caller's bug.

mod listeners;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use crate::batch::{self, BatchHeader};
use crate::error::{Error, Result, Status};
use crate::exchange::Exchange;
use crate::limits::LimitCounts;
use crate::listen::Bound;
use crate::record::{Loan, Record};
use crate::runtime;
use crate::tls::Tls;

/// Longest arena one `sn_submit` takes; offsets are 32 bits.
const MAX_ARENA: usize = u32::MAX as usize;
/// Most commands one `sn_submit` takes.
const MAX_RECORDS: usize = 1 << 20;

thread_local! {
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A running core. Opaque; shareable between threads except where an export says otherwise.
pub struct Runtime {
    core: runtime::Runtime,
    bound: Mutex<HashMap<u64, Bound>>,
    tls: Mutex<Vec<Arc<Tls>>>,
}

/// Borrowed bytes, for the length of one call. `data` may be null when `length` is 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Bytes {
    /// First byte.
    pub data: *const u8,
    /// How many.
    pub length: usize,
}

/// What one `sn_next` takes. Opaque; one thread at a time.
pub struct Batch {
    events: batch::Batch,
    /// Boxed: the host reads it where it lies.
    header: Box<BatchHeader>,
}

/// Figures of a runtime as of now.
#[repr(C)]
#[derive(Default)]
pub struct Stats {
    /// Connections open now.
    pub connections: u64,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections turned away by a limit.
    pub refused: u64,
    /// Deadlines that fired (idle, head, body rate, write stall).
    pub overdue: u64,
    /// Connections of which a stream is open now.
    pub busy: u64,
    /// Streams open now.
    pub streams: u64,
    /// Streams opened since the start.
    pub opened: u64,
    /// Commands for streams that were over.
    pub stale_commands: u64,
    /// Streams reset because more was sent than the window.
    pub overflows: u64,
    /// LOG events left out because the queue was full.
    pub logs_dropped: u64,
    /// Events waiting for `sn_next`.
    pub queued_records: u64,
    /// Payload bytes waiting for `sn_next`.
    pub queued_bytes: u64,
    /// 1 while a native thread drives because the host is slow (always 1 with `io_threads` = 1).
    pub sticky: u64,
    /// How often each limit was applied.
    pub limited: LimitCounts,
}

/// The version of the library, NUL-terminated; never freed.
#[unsafe(no_mangle)]
pub extern "C" fn sn_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Identity of the ABI: a hash of the sources that define it, computed by the build. Load compares it.
#[unsafe(no_mangle)]
pub extern "C" fn sn_abi_hash() -> u64 {
    const HASH: u64 = parse_hash(env!("SN_ABI_HASH"));
    HASH
}

/// Copies the sentence of this thread's last status that was not OK into `buffer` (cut to `capacity`, not NUL-terminated).
/// Answers its whole length in bytes of UTF-8.
///
/// # Safety
/// `buffer` is null or has `capacity` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_last_error(buffer: *mut u8, capacity: usize) -> usize {
    LAST_ERROR.with_borrow(|text| {
        let count = text.len().min(capacity);
        if !buffer.is_null() {
            // SAFETY: the caller vouches for `capacity` bytes, and `count` is at most that.
            unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), buffer, count) };
        }
        text.len()
    })
}

/// Starts a runtime. `io_threads` 0: the thread in `sn_next` drives; 1: one native thread does; N: N threads do.
///
/// # Safety
/// `out_runtime` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_start(io_threads: u32, out_runtime: *mut *mut Runtime) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        let out = unsafe { borrow_mut(out_runtime, "out_runtime")? };
        let core = runtime::Runtime::start(io_threads)?;
        *out = Box::into_raw(Box::new(Runtime { core, bound: Mutex::default(), tls: Mutex::default() }));
        Ok(Status::Ok)
    })
}

/// Begins a graceful stop and returns at once: no new connections, what is in flight has `grace_ms`, handlers get DRAIN
/// before the deadline. Calling again can only hasten it. `sn_next` answers CLOSED when all is over.
///
/// # Safety
/// `runtime` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_stop(runtime: *const Runtime, grace_ms: u32) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        let runtime = unsafe { borrow(runtime, "runtime")? };
        lock(&runtime.bound).clear();
        runtime.core.stop(Duration::from_millis(grace_ms.into()));
        Ok(Status::Ok)
    })
}

/// Frees a runtime: ends its tasks, joins its threads. Null is fine. No other thread may be inside any export with it.
/// May block for a moment: call without holding an interpreter lock.
///
/// # Safety
/// `runtime` is null or live, and not used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_free(runtime: *mut Runtime) -> Status {
    guard(|| {
        if !runtime.is_null() {
            // SAFETY: it came from `sn_start` and is given up by the caller.
            drop(unsafe { Box::from_raw(runtime) });
        }
        Ok(Status::Ok)
    })
}

/// Makes an empty batch and says where its header lies. One thread at a time may use a batch.
///
/// # Safety
/// Pointers are null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_batch_new(out_batch: *mut *mut Batch, out_header: *mut *const BatchHeader) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        let (out, out_header) = unsafe { (borrow_mut(out_batch, "out_batch")?, borrow_mut(out_header, "out_header")?) };
        let events = batch::Batch::default();
        let header = Box::new(events.header());
        *out_header = &raw const *header;
        *out = Box::into_raw(Box::new(Batch { events, header }));
        Ok(Status::Ok)
    })
}

/// Frees a batch. Null is fine.
///
/// # Safety
/// `batch` is null or live, and neither it nor its memory is used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_batch_free(batch: *mut Batch) -> Status {
    guard(|| {
        if !batch.is_null() {
            // SAFETY: it came from `sn_batch_new` and is given up by the caller.
            drop(unsafe { Box::from_raw(batch) });
        }
        Ok(Status::Ok)
    })
}

/// Takes events into `batch`, driving the sockets when `io_threads` is 0. Blocks up to `timeout_us` microseconds
/// (0 polls once, negative waits without end): call without holding an interpreter lock. One thread at a time per runtime;
/// others get BUSY. TIMEOUT, WOKEN and CLOSED come with an empty batch.
///
/// # Safety
/// Pointers are null or live; `batch` is used by no other thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_next(runtime: *const Runtime, batch: *mut Batch, timeout_us: i64) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        let (runtime, batch) = unsafe { (borrow(runtime, "runtime")?, borrow_mut(batch, "batch")?) };
        let outcome = runtime.core.next(&mut batch.events, u64::try_from(timeout_us).ok().map(Duration::from_micros));
        *batch.header = batch.events.header();
        outcome
    })
}

/// Hands over commands; copied before it returns but for what they lend, never blocks, so it may be called with an interpreter lock held. Nothing is
/// taken when a record is wrong, and BUSY is answered when far more waits than any window allows. Commands for streams that
/// are over are counted, not refused.
///
/// # Safety
/// `records` has `count` records and `arena` has `arena_length` bytes, unless null. What a record with LENT points to is there,
/// and does not change, until RETURNED names its token or `sn_free` has returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_submit(
    runtime: *const Runtime,
    records: *const u8,
    count: usize,
    arena: *const u8,
    arena_length: usize,
) -> Status {
    guard(|| {
        if count > MAX_RECORDS || arena_length > MAX_ARENA {
            let text = format!(
                "at most {MAX_RECORDS} records and {MAX_ARENA} bytes fit one submit, found {count} and {arena_length}"
            );
            return Err(Error::invalid(text));
        }
        // SAFETY: non-null pointers are what the header says.
        let (runtime, records, arena) = unsafe {
            (
                borrow(runtime, "runtime")?,
                bytes(Bytes { data: records, length: count * size_of::<Record>() }, "records")?,
                bytes(Bytes { data: arena, length: arena_length }, "arena")?,
            )
        };
        let records: Vec<Record> = records
            .chunks_exact(size_of::<Record>())
            // SAFETY: 32 bytes, and every bit pattern is a Record; unaligned because hosts pack records into byte strings.
            .map(|record| unsafe { record.as_ptr().cast::<Record>().read_unaligned() })
            .collect();
        let exchange = runtime.core.exchange();
        let mut group = None;
        let borrow = |loan: Loan| {
            // `submit` has checked that the first has a token.
            if loan.token != 0 {
                let (token, length) = (loan.token, AtomicU64::new(0));
                group = Some(Arc::new(Group { token, length, exchange: Arc::downgrade(exchange) }));
            }
            bytes::Bytes::from_owner(Borrowed::of(loan, group.as_ref()))
        };
        exchange.submit(&records, arena, borrow)?;
        Ok(Status::Ok)
    })
}

/// Makes the current or next `sn_next` return: WOKEN, or OK with events and WOKEN from the one after. From any thread; never
/// blocks.
///
/// # Safety
/// `runtime` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_wake(runtime: *const Runtime) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        unsafe { borrow(runtime, "runtime")? }.core.wake();
        Ok(Status::Ok)
    })
}

/// Watches a descriptor: `sn_next` returns and sets `watched` in the batch header when it became readable (an edge: read
/// until nothing is left before relying on it again). Duplicated, so the caller keeps its own. -1 watches nothing.
///
/// # Safety
/// `runtime` is null or live; `descriptor` is -1 or open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_watch(runtime: *const Runtime, descriptor: c_int) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        let runtime = unsafe { borrow(runtime, "runtime")? };
        // SAFETY: the caller vouches for an open descriptor.
        let Some(owned) = (unsafe { duplicate(descriptor)? }) else {
            runtime.core.watch(None);
            return Ok(Status::Ok);
        };
        let _context = runtime.core.enter();
        // SAFETY: an OwnedFd stays open, and stays the same file, until the AsyncFd that owns it is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(owned, tokio::io::Interest::READABLE) };
        let watched = registered
            .map_err(|refused| Error::io(format!("descriptor {descriptor} cannot be watched"), &refused.into()))?;
        runtime.core.watch(Some(watched));
        Ok(Status::Ok)
    })
}

/// Signals a descriptor: 8 bytes (an eventfd's one) are written to it when events wait after an `sn_next` with timeout 0, once
/// until the next such call. For event loops that are not ours. Duplicated. -1 signals nothing.
///
/// # Safety
/// `runtime` is null or live; `descriptor` is -1 or open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_signal(runtime: *const Runtime, descriptor: c_int) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        let runtime = unsafe { borrow(runtime, "runtime")? };
        // SAFETY: the caller vouches for an open descriptor.
        runtime.core.signal(unsafe { duplicate(descriptor)? });
        Ok(Status::Ok)
    })
}

/// Fills `out_stats`.
///
/// # Safety
/// Pointers are null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_debug_stats(runtime: *const Runtime, out_stats: *mut Stats) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        let (runtime, out) = unsafe { (borrow(runtime, "runtime")?, borrow_mut(out_stats, "out_stats")?) };
        let streams = runtime.core.exchange().counters();
        let connections = runtime.core.connections().figures();
        *out = Stats {
            connections: connections.open,
            accepted: connections.accepted,
            refused: connections.refused,
            overdue: connections.overdue,
            busy: streams.busy,
            streams: streams.live,
            opened: streams.opened,
            stale_commands: streams.stale_commands,
            overflows: streams.overflows,
            logs_dropped: streams.logs_dropped,
            queued_records: streams.queued_records,
            queued_bytes: streams.queued_bytes,
            sticky: u64::from(runtime.core.is_sticky()),
            limited: runtime.core.connections().meter.counts(),
        };
        Ok(Status::Ok)
    })
}

/// Memory of the host's, read where it lies.
struct Borrowed {
    loan: Loan,
    /// Held, not looked at.
    _group: Option<Arc<Group>>,
}

impl Borrowed {
    fn of(loan: Loan, group: Option<&Arc<Group>>) -> Borrowed {
        if let Some(group) = group {
            group.length.fetch_add(loan.length, Ordering::Relaxed);
        }
        Borrowed { loan, _group: group.cloned() }
    }
}

/// What is lent under one token; the last hand on any of it gives all back.
struct Group {
    token: u64,
    length: AtomicU64,
    /// Weak: orders that nobody took are dropped with the exchange, and hold such as this.
    exchange: Weak<Exchange>,
}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the caller of `sn_submit` vouches for the memory until RETURNED, which is told by the drop of this, or until
        // `sn_free` returns, which drops every task and with them every such value. `submit` has refused null and overlong.
        unsafe { std::slice::from_raw_parts(self.loan.address as *const u8, self.loan.length as usize) }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.upgrade() {
            exchange.give_back(self.token, *self.length.get_mut());
        }
    }
}

fn guard(body: impl FnOnce() -> Result<Status>) -> Status {
    let failed = |error: Error| {
        LAST_ERROR.with_borrow_mut(|text| *text = error.text);
        error.status
    };
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => failed(error),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            failed(Error::new(Status::Panic, format!("server_native panicked: {}", text.unwrap_or("no message"))))
        }
    }
}

unsafe fn borrow<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: the caller vouches that a non-null pointer is live for the call.
    unsafe { pointer.as_ref() }.ok_or_else(|| Error::invalid(format!("{name} is null")))
}

unsafe fn borrow_mut<'a, T>(pointer: *mut T, name: &str) -> Result<&'a mut T> {
    // SAFETY: the caller vouches that a non-null pointer is live and exclusive for the call.
    unsafe { pointer.as_mut() }.ok_or_else(|| Error::invalid(format!("{name} is null")))
}

unsafe fn bytes<'a>(view: Bytes, name: &str) -> Result<&'a [u8]> {
    match (view.data.is_null(), view.length) {
        (_, 0) => Ok(&[]),
        (true, length) => Err(Error::invalid(format!("{name} is null with a length of {length}"))),
        (false, length) if length > isize::MAX as usize => {
            Err(Error::invalid(format!("{name} has an impossible length of {length}")))
        }
        // SAFETY: the caller vouches for `length` bytes; null and overlong are excluded.
        (false, length) => Ok(unsafe { std::slice::from_raw_parts(view.data, length) }),
    }
}

unsafe fn text<'a>(view: Bytes, name: &str) -> Result<&'a str> {
    // SAFETY: as the caller of this.
    let bytes = unsafe { bytes(view, name)? };
    std::str::from_utf8(bytes).map_err(|cause| Error::invalid(format!("{name} is not UTF-8: {cause}")))
}

#[cfg(unix)]
unsafe fn duplicate(descriptor: c_int) -> Result<Option<std::os::fd::OwnedFd>> {
    if descriptor < 0 {
        return Ok(None);
    }
    // SAFETY: the caller vouches for an open descriptor; a closed one makes the duplication fail.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
    let owned = borrowed.try_clone_to_owned();
    owned.map(Some).map_err(|cause| Error::io(format!("descriptor {descriptor} cannot be used"), &cause))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

const fn parse_hash(text: &str) -> u64 {
    match u64::from_str_radix(text, 16) {
        Ok(hash) => hash,
        Err(_) => panic!("SN_ABI_HASH must be 16 hexadecimal digits"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_status_with_its_message() {
        let told = |body: fn() -> Result<Status>| {
            assert_eq!(guard(body), Status::Panic);
            LAST_ERROR.with_borrow(String::clone)
        };
        assert_eq!(told(|| panic!("on purpose")), "server_native panicked: on purpose");
        assert_eq!(told(|| panic!("{} on purpose", 2)), "server_native panicked: 2 on purpose");
        assert_eq!(told(|| std::panic::panic_any(7)), "server_native panicked: no message");
        assert_eq!(guard(|| Ok(Status::Timeout)), Status::Timeout);
    }
}

//! Each rule in the header of `exchange.rs` by itself, with the smallest case that shows it.

#[path = "support/pair.rs"]
mod pair;

use std::collections::HashSet;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use pair::{Commands, Flag, Host, Peer, Told, bytes, idle, nothing_lent, opening};
use server_native::error::Status;
use server_native::exchange::{Counters, Exchange, Opening};
use server_native::record::{Command, Event, FLAG_END, FLAG_MORE, FLAG_TEXT, MESSAGE_COST, Reason, Record};

const WINDOW: u32 = 1000;
/// As in exchange.rs: head and body of one OPEN.
const OPEN_BYTES: usize = 512 * 1024;

fn pair() -> (Arc<Exchange>, Host, Peer) {
    let exchange = Arc::new(Exchange::default());
    let mut host = Host::new(&exchange);
    let peer = Peer::open(&exchange, opening(WINDOW, WINDOW), b"line", b"fields").unwrap();
    assert_eq!(host.drain().len(), 1);
    (exchange, host, peer)
}

fn kinds(told: &[Told]) -> Vec<u8> {
    told.iter().map(|told| told.record.kind).collect()
}

// --- ids ---------------------------------------------------------------------------------------------------------

#[test]
fn a_slot_is_used_again_and_an_id_never() {
    let exchange = Arc::new(Exchange::default());
    let mut ids = HashSet::new();
    for _ in 0..1000 {
        let peer = Peer::open(&exchange, opening(0, 0), b"", b"").unwrap();
        assert!(ids.insert(peer.id()));
        assert!(ids.insert(exchange.name()));
    }
    let slots: HashSet<u64> = ids.iter().filter(|id| *id >> 63 == 0).map(|id| id & 0xff_ffff).collect();
    assert_eq!(slots.len(), 1);
    assert!(!ids.contains(&0), "0 is the runtime");
}

#[test]
fn a_late_command_is_counted_and_does_not_reach_the_next_stream_of_the_slot() {
    let (exchange, host, mut first) = pair();
    let old = first.id();
    first.stream.fail(Reason::Gone);
    let mut second = Peer::open(&exchange, opening(0, WINDOW), b"", b"").unwrap();
    assert_eq!(second.id() & 0xff_ffff, old & 0xff_ffff, "the slot is the same");
    host.say(&Commands::default().data(old, b"late", true).credit(old, 5).reset(old, Reason::Cancelled));
    assert_eq!(exchange.counters().stale_commands, 3);
    assert!(second.poll().is_pending());
    assert_eq!(second.stream.credit(), 0);
    assert!(!second.flag.is_set());
    second.inlet.push_end(b"");
    first.inlet.push_end(b"too late");
    first.inlet.fail(Reason::Protocol);
    assert!(second.poll().is_pending());
}

// --- bounds ------------------------------------------------------------------------------------------------------

#[test]
fn a_full_queue_makes_producers_wait_and_once_it_is_taken_whoever_drives_wakes_them_all() {
    for (count, size) in [(4096, 1), (2, 64 * 1024)] {
        let exchange = Arc::new(Exchange::default());
        let mut host = Host::new(&exchange);
        let mut pushed = 0;
        let peers = [(); 2].map(|()| Peer::open(&exchange, opening(u32::MAX, 0), b"", b"").unwrap());
        host.drain();
        while exchange.poll_ready(&idle()).is_ready() {
            // In turns, so that no piece grows into the next.
            peers[pushed as usize % 2].stream.push(&bytes(pushed, size), false);
            pushed += 1;
        }
        assert_eq!(pushed, count);
        let (one, two) = (Flag::new(&exchange), Flag::new(&exchange));
        for flag in [&one, &two, &one] {
            assert!(exchange.poll_ready(&Context::from_waker(&flag.waker())).is_pending());
        }
        let driver = Flag::new(&exchange);
        exchange.apply(Some(&driver.waker()));
        assert!(!one.is_set() && !two.is_set());
        let told = host.take().unwrap();
        assert!(driver.take() && !one.is_set() && !two.is_set());
        exchange.apply(None);
        assert!(one.take() && two.take());
        assert!(exchange.poll_ready(&idle()).is_ready());
        for (index, told) in told.iter().enumerate() {
            assert_eq!(told.payload, bytes(index as u32, size));
        }
        assert_eq!(told.len(), count as usize, "a batch is all there is");
    }
}

#[test]
fn bytes_that_follow_bytes_are_one_event() {
    let (exchange, mut host, peer) = pair();
    let other = Peer::open(&exchange, opening(WINDOW, WINDOW), b"", b"").unwrap();
    host.drain();
    for piece in [&b"one"[..], b"by", b"one"] {
        peer.stream.push(piece, false);
    }
    other.stream.push(b"other", false);
    peer.stream.push(b"again", false);
    peer.inlet.push(b"end", true);
    let told = host.drain();
    let heard: Vec<_> = told.iter().map(|told| (told.record.stream, &told.payload[..], told.record.flags)).collect();
    assert_eq!(
        heard,
        [(peer.id(), &b"onebyone"[..], 0), (other.id(), b"other", 0), (peer.id(), b"againend", FLAG_END)]
    );
    assert_eq!(peer.stream.credit(), WINDOW - 16);
    assert_eq!(told[0].record.length, 8);
    other.stream.push(b"what was taken", false);
    host.drain();
    other.stream.push(b"is not added to", false);
    assert_eq!(host.drain()[0].payload, b"is not added to");
}

/// Wakes into a list, so that the order shows.
struct Named(&'static str, Arc<Mutex<Vec<&'static str>>>);

impl Wake for Named {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push(self.0);
    }
}

#[test]
fn who_had_a_share_comes_after_those_that_found_no_room_and_before_who_got_credit() {
    let exchange = Arc::new(Exchange::default());
    let mut host = Host::new(&exchange);
    let woken = Arc::new(Mutex::new(Vec::new()));
    let named = |name| Waker::from(Arc::new(Named(name, woken.clone())));
    assert!(!exchange.wake_when_taken(&named("nobody would wake it")));
    let mut peer = Peer::open(&exchange, opening(u32::MAX, 0), b"", b"").unwrap();
    assert!(exchange.wake_when_taken(&named("served")));
    while exchange.poll_ready(&idle()).is_ready() {
        peer.stream.push(b"x", false);
    }
    assert!(exchange.poll_more(&Context::from_waker(&named("had some"))).is_pending());
    for name in ["waits", "waits too"] {
        assert!(exchange.poll_ready(&Context::from_waker(&named(name))).is_pending());
    }
    let credited = Waker::from(Arc::new(Named("given credit", woken.clone())));
    assert!(peer.stream.poll_order(&Context::from_waker(&credited)).is_pending());
    host.drain();
    host.say(&Commands::default().credit(peer.stream.id(), 1));
    assert_eq!(*woken.lock().unwrap(), ["waits", "waits too", "served", "had some", "given credit"]);
    assert!(!exchange.wake_when_taken(&named("all was taken")));
    peer.stream.push(b"x", false);
    assert!(exchange.wake_when_taken(&named("closed")));
    exchange.close();
    assert_eq!(woken.lock().unwrap().last(), Some(&"closed"));
    assert!(!exchange.wake_when_taken(&named("nobody takes any more")));
}

#[test]
fn no_event_has_more_than_a_piece_of_a_body() {
    let exchange = Arc::new(Exchange::default());
    let mut host = Host::new(&exchange);
    let peer = Peer::open(&exchange, opening(u32::MAX, 0), b"", b"").unwrap();
    host.drain();
    let whole = bytes(1, 200_000);
    peer.stream.push(&whole[..10], false);
    peer.stream.push(&whole[10..], true);
    let told = host.drain();
    let sizes: Vec<_> = told.iter().map(|told| (told.record.length, told.record.flags)).collect();
    assert_eq!(sizes, [(65_536, 0), (65_536, 0), (65_536, 0), (3_392, FLAG_END)]);
    assert!(told.iter().flat_map(|told| &told.payload).eq(&whole));
}

#[test]
fn messages_keep_their_bounds() {
    let (_exchange, mut host, peer) = pair();
    host.say(&Commands::default().upgrade(peer.id(), FLAG_TEXT, 0, b""));
    for _ in 0..3 {
        peer.stream.push_message(b"x", 0);
    }
    assert_eq!(host.drain().len(), 3);
}

#[test]
fn a_batch_is_what_is_there() {
    let (exchange, mut host, peer) = pair();
    assert_eq!(host.take().unwrap(), []);
    exchange.announce(Event::Accept, 1, 2, 3, 4, b"first");
    peer.stream.push(b"", true);
    let counters = exchange.counters();
    assert_eq!((counters.queued_records, counters.queued_bytes), (2, 5));
    assert_eq!(kinds(&host.take().unwrap()), [Event::Accept as u8, Event::Data as u8]);
    assert_eq!(host.take().unwrap(), []);
}

// --- loans -------------------------------------------------------------------------------------------------------

/// The tokens of RETURNED, which must be all there is.
fn returned(host: &mut Host) -> Vec<u64> {
    let told = host.drain();
    assert!(told.iter().all(|told| told.is(Event::Returned) && told.record.stream == 0));
    let tokens = told.iter().flat_map(|told| told.payload.chunks_exact(8));
    tokens.map(|token| u64::from_ne_bytes(token.try_into().unwrap())).collect()
}

#[test]
fn a_loan_comes_back_when_the_last_hand_lets_go() {
    let exchange = Arc::new(Exchange::default());
    let mut host = Host::new(&exchange);
    let mut peer = Peer::open(&exchange, opening(0, u32::MAX), b"", b"").unwrap();
    host.drain();
    let large = bytes(1, 256 * 1024);
    host.say(&Commands::default().lend(peer.id(), 7, b"small", 0, false).lend(peer.id(), 8, &large, 0, false));
    let mut orders = peer.orders();
    assert_eq!(orders.iter().map(|order| &order.body[..]).collect::<Vec<_>>(), [&b"small"[..], &large]);
    let waiting = Flag::new(&exchange);
    assert!(exchange.poll_events(&Context::from_waker(&waiting.waker())).is_pending());
    drop(orders.remove(0));
    assert!(!waiting.is_set() && !exchange.has_events(), "a small one comes with the next event");
    let kept = orders[0].body.slice(1..2);
    drop(orders);
    assert!(!waiting.is_set(), "a slice is a hand on it");
    drop(kept);
    assert!(waiting.is_set() && exchange.has_events());
    assert_eq!(returned(&mut host), [7, 8]);
    assert!(!exchange.has_events());
}

#[test]
fn pieces_lent_together_are_an_order_each_and_the_last_ends() {
    for end in [false, true] {
        let (_, host, mut peer) = pair();
        host.say(&Commands::default().lend_two(peer.id(), 7, [b"one", b"two"], end).data(peer.id(), b"after", false));
        let orders = peer.orders();
        let told: Vec<_> = orders.iter().map(|order| (&order.body[..], order.end)).collect();
        let mut expected = vec![(&b"one"[..], false), (b"two", end), (b"after", false)];
        expected.truncate(if end { 2 } else { 3 });
        assert_eq!(told, expected);
    }
}

#[test]
fn a_loan_comes_back_however_its_stream_ends() {
    type End = fn(&Arc<Exchange>, &Host, &mut Peer);
    let ends: [End; 5] = [
        |_, _, peer| peer.stream.fail(Reason::Gone),
        |_, _, peer| peer.inlet.fail(Reason::Protocol),
        |_, host, peer| host.say(&Commands::default().reset(peer.id(), Reason::Cancelled)),
        |_, host, peer| host.say(&Commands::default().data(peer.id(), &[0; WINDOW as usize], false)),
        |_, host, peer| {
            host.say(&Commands::default().end(peer.id(), b""));
            host.say(&Commands::default().lend(peer.id(), 8, b"late", 0, false));
            peer.orders();
        },
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let (exchange, mut host, mut peer) = pair();
        host.say(&Commands::default().lend(peer.id(), 7, b"lent", 0, false));
        end(&exchange, &host, &mut peer);
        drop(peer);
        let mut tokens: Vec<u64> = host
            .drain()
            .iter()
            .filter(|told| told.is(Event::Returned))
            .flat_map(|told| {
                told.payload
                    .chunks_exact(8)
                    .map(|token| u64::from_ne_bytes(token.try_into().unwrap()))
                    .collect::<Vec<_>>()
            })
            .collect();
        tokens.sort_unstable();
        assert_eq!(tokens, if number == 4 { vec![7, 8] } else { vec![7] }, "end {number}");
    }
}

#[test]
fn what_is_lent_whole_needs_no_window_and_pieces_do() {
    let (exchange, mut host, mut peer) = pair();
    let whole = bytes(1, 10 * WINDOW as usize);
    host.say(&Commands::default().lend(peer.id(), 7, &whole, 0, true));
    assert_eq!(peer.orders()[0].body, whole);
    assert_eq!(returned(&mut host), [7]);
    assert_eq!(exchange.counters().overflows, 0);
    let (exchange, host, peer) = pair();
    host.say(&Commands::default().lend(peer.id(), 7, &whole, 0, false));
    assert_eq!(exchange.counters().overflows, 1);
}

#[test]
fn what_is_refused_is_not_borrowed() {
    let (exchange, mut host, peer) = pair();
    let good = Commands::default().lend(peer.id(), 7, b"lent", 0, false);
    let refused = |change: fn(&mut Record)| {
        let mut record = good.records[0];
        change(&mut record);
        exchange.submit(&[good.records[0], record], &good.arena, nothing_lent).unwrap_err().text
    };
    assert_eq!(
        refused(|record| record.kind = Command::End as u8),
        "command 1: only HEAD and DATA lend, found the flag LENT on End"
    );
    assert_eq!(
        refused(|record| record.length = 8),
        "command 1: HEAD has one loan of 24 bytes, DATA one or more, found 8 bytes"
    );
    let mut unnamed = good.arena.clone();
    unnamed[16..24].fill(0);
    assert!(
        exchange.submit(&good.records, &unnamed, nothing_lent).unwrap_err().text.starts_with(
            "command 0: loan 0 must have an address, a length, and a token if it is the first, found Loan"
        )
    );
    assert_eq!(host.drain(), []);
}

#[test]
fn what_no_open_tells_is_not_opened() {
    let exchange = Arc::new(Exchange::default());
    let mut host = Host::new(&exchange);
    let whole = bytes(1, OPEN_BYTES);
    for (line, fields, body) in [(0x10000, 0, 0), (100, OPEN_BYTES - 100, 1), (0, 0, OPEN_BYTES + 1)] {
        let body = vec![0; body];
        let opening = Opening { body: &body, ..opening(0, 0) };
        assert!(Peer::open(&exchange, opening, &whole[..line], &whole[..fields]).is_none());
    }
    assert_eq!(exchange.counters(), Counters::default());
    let largest = Opening { body: &whole[0xffff + 10..], ..opening(0, 0) };
    let peer = Peer::open(&exchange, largest, &whole[..0xffff], &whole[0xffff..0xffff + 10]).unwrap();
    let told = host.take().unwrap();
    assert_eq!((told[0].record.stream, told[0].record.code), (peer.id(), 0xffff));
    assert!(told[0].payload == whole);
}

#[test]
fn a_full_queue_drops_logs_and_counts_them() {
    let exchange = Arc::new(Exchange::default());
    while exchange.poll_ready(&idle()).is_ready() {
        exchange.announce(Event::Log, 0, 0, 20, 0, b"text");
    }
    exchange.announce(Event::Log, 0, 0, 20, 0, b"one too many");
    exchange.announce(Event::Drain, 0, 0, 0, 5, b"");
    let counters = exchange.counters();
    assert_eq!((counters.logs_dropped, counters.queued_records), (1, 4097));
}

// --- credit and windows ------------------------------------------------------------------------------------------

#[test]
fn credit_is_used_up_by_data_and_comes_back_with_a_wake_up() {
    let (_exchange, host, peer) = pair();
    assert_eq!(peer.poll_credit(), Poll::Ready(Some(WINDOW)));
    peer.stream.push(&bytes(1, WINDOW as usize), false);
    assert_eq!(peer.stream.credit(), 0);
    assert!(peer.poll_credit().is_pending());
    host.say(&Commands::default().credit(peer.id(), 5));
    assert!(peer.flag.is_set() && peer.feeder.is_set());
    assert_eq!((peer.stream.credit(), peer.poll_credit()), (5, Poll::Ready(Some(5))));
    host.say(&Commands::default().credit(peer.id(), u32::MAX));
    assert_eq!(peer.stream.credit(), u32::MAX);
}

#[test]
fn the_window_comes_back_half_by_half_and_never_more_than_was_used() {
    let (_exchange, mut host, mut peer) = pair();
    host.say(&Commands::default().head(peer.id(), 200, b"ignored by windows", &bytes(1, 400), false));
    host.say(&Commands::default().data(peer.id(), &bytes(2, 600), false));
    assert_eq!(peer.orders().len(), 2);
    peer.stream.sent(499);
    assert_eq!(host.drain(), []);
    peer.stream.sent(1);
    peer.stream.sent(10_000);
    let told = host.drain();
    assert_eq!(kinds(&told), [Event::Writable as u8; 2]);
    assert_eq!(told.iter().map(|told| told.record.aux).collect::<Vec<_>>(), [500, 500]);
    host.say(&Commands::default().data(peer.id(), &bytes(3, WINDOW as usize), false));
    assert_eq!(peer.orders().len(), 1);
}

#[test]
fn more_than_the_window_resets_the_stream_towards_both_sides() {
    let (exchange, mut host, mut peer) = pair();
    assert!(peer.poll().is_pending());
    host.say(&Commands::default().data(peer.id(), &bytes(1, 600), false).data(peer.id(), &bytes(2, 401), true));
    assert_eq!(exchange.counters().overflows, 1);
    assert!(peer.flag.take());
    let orders = peer.orders();
    assert_eq!(orders.len(), 1, "what waited is abandoned");
    assert_eq!((orders[0].command, orders[0].code, orders[0].end), (Command::Reset, Reason::Limit as u16, true));
    let told = host.drain();
    assert_eq!((kinds(&told), told[0].record.code), (vec![Event::Reset as u8], Reason::Limit as u16));
    drop(peer);
    assert_eq!(host.drain(), []);
}

#[test]
fn what_passes_the_credit_is_paid_back_before_more_is_told() {
    let (_exchange, mut host, peer) = pair();
    // The last piece of a read cannot be cut; the host gives all of it back.
    for _ in 0..100 {
        peer.stream.push(&bytes(1, WINDOW as usize - 10), false);
        peer.stream.push(&bytes(2, 500), false);
        assert_eq!((peer.stream.credit(), peer.poll_credit()), (0, Poll::Pending));
        host.say(&Commands::default().credit(peer.id(), 490));
        assert_eq!(peer.stream.credit(), 0, "all that was told is more than what came back");
        host.say(&Commands::default().credit(peer.id(), WINDOW));
        assert_eq!(peer.stream.credit(), WINDOW, "the window does not grow");
        host.drain();
    }
}

// --- END and RESET ---------------------------------------------------------------------------------------------

#[test]
fn the_peers_side_ends_once() {
    let (_exchange, mut host, peer) = pair();
    peer.stream.push(b"last", true);
    peer.stream.push(b"more", true);
    peer.stream.push_end(b"trailers");
    peer.inlet.push_end(b"");
    let told = host.drain();
    assert_eq!((kinds(&told), told[0].record.flags), (vec![Event::Data as u8], FLAG_END));
}

#[test]
fn a_request_that_came_whole_has_no_second_end() {
    let exchange = Arc::new(Exchange::default());
    let mut host = Host::new(&exchange);
    let peer = Peer::open(&exchange, Opening { flags: FLAG_END, body: b"body", ..opening(9, 9) }, b"l", b"f").unwrap();
    peer.stream.push(b"more", false);
    peer.stream.push_end(b"");
    let told = host.drain();
    assert_eq!(kinds(&told), [Event::Open as u8]);
    assert_eq!((told[0].record.length, told[0].record.code, told[0].record.aux), (2, 1, 4));
    assert_eq!(told[0].payload, b"lfbody");
}

#[test]
fn a_stream_is_reset_once_whoever_does_it() {
    let (_exchange, mut host, mut peer) = pair();
    peer.inlet.fail(Reason::Protocol);
    peer.inlet.fail(Reason::Timeout);
    peer.inlet.push(b"late", false);
    let order = peer.orders().remove(0);
    assert_eq!((order.command, order.code), (Command::Reset, Reason::Protocol as u16));
    peer.stream.fail(Reason::Internal);
    drop(peer);
    let told = host.drain();
    assert_eq!((kinds(&told), told[0].record.code), (vec![Event::Reset as u8], Reason::Protocol as u16));
}

#[test]
fn nothing_is_told_after_the_hosts_last_command() {
    type Says = fn(Commands, u64) -> Commands;
    let last: [Says; 4] = [
        |says, id| says.head(id, 204, b"", b"", true),
        |says, id| says.data(id, b"x", true),
        |says, id| says.end(id, b""),
        |says, id| says.reset(id, Reason::Cancelled),
    ];
    for says in last {
        for takes in [false, true] {
            let (exchange, mut host, mut peer) = pair();
            assert!(peer.poll_credit().is_ready());
            peer.stream.push(&bytes(0, WINDOW as usize), false);
            assert!(peer.poll_credit().is_pending());
            host.drain();
            host.say(&says(Commands::default(), peer.id()));
            assert_eq!(peer.poll_credit(), Poll::Ready(None));
            if takes {
                assert_eq!(peer.orders().len(), 1);
                assert!(!peer.stream.is_live());
                assert_eq!((peer.stream.credit(), exchange.counters().live), (0, 0));
            }
            peer.stream.sent(WINDOW as usize);
            peer.stream.push(b"late", false);
            peer.stream.push_end(b"late");
            peer.inlet.fail(Reason::Protocol);
            host.say(&Commands::default().data(peer.id(), b"late", true));
            drop(peer);
            assert_eq!(host.drain(), []);
            let counters = exchange.counters();
            assert_eq!((counters.live, counters.stale_commands), (0, 1));
        }
    }
}

#[test]
fn a_dropped_stream_tells_why() {
    let (exchange, mut host, peer) = pair();
    drop(peer);
    assert_eq!(host.drain()[0].record.code, Reason::Gone as u16);
    let panicking = exchange.clone();
    let thread = thread::spawn(move || {
        let _peer = Peer::open(&panicking, opening(0, 0), b"", b"");
        std::panic::resume_unwind(Box::new("the task of a stream panics"));
    });
    assert!(thread.join().is_err());
    assert_eq!(host.drain()[1].record.code, Reason::Internal as u16);
}

#[test]
fn a_reset_of_the_host_overtakes_what_it_said_before() {
    let (_exchange, host, mut peer) = pair();
    host.say(&Commands::default().data(peer.id(), b"never", false).reset(peer.id(), Reason::Cancelled));
    assert_eq!(peer.orders().iter().map(|order| order.command).collect::<Vec<_>>(), [Command::Reset]);
}

// --- submit and apply ------------------------------------------------------------------------------------------

#[test]
fn submit_only_copies_and_wakes_whoever_applies() {
    let (exchange, _host, mut peer) = pair();
    assert!(peer.poll().is_pending());
    let driver = Flag::new(&exchange);
    exchange.apply(Some(&driver.waker()));
    assert!(!driver.is_set());
    let mut commands = Commands::default().data(peer.id(), b"first", false);
    commands.submit(&exchange).unwrap();
    assert!(driver.take() && !peer.flag.is_set());
    assert!(peer.poll().is_pending());
    commands.submit(&exchange).unwrap();
    assert!(!driver.is_set(), "one wake-up is enough");
    commands.arena.fill(0);
    exchange.apply(Some(&driver.waker()));
    assert!(peer.flag.take());
    let orders = peer.orders();
    assert_eq!(orders.iter().map(|order| &order.body[..]).collect::<Vec<_>>(), [b"first", b"first"]);
    exchange.leave();
    commands.submit(&exchange).unwrap();
    assert!(!driver.is_set(), "nobody drives");
}

#[test]
fn payloads_arrive_whole_from_small_arenas_and_large_ones() {
    for size in [10, 64 * 1024, 64 * 1024 + 1, 1024 * 1024] {
        let exchange = Arc::new(Exchange::default());
        let host = Host::new(&exchange);
        let mut peer = Peer::open(&exchange, opening(0, u32::MAX), b"", b"").unwrap();
        let (fields, body, more, trailers) = (bytes(1, 20), bytes(2, size), bytes(3, size / 2), bytes(4, 30));
        let commands = Commands::default()
            .inform(peer.id(), 103, b"link")
            .head(peer.id(), 200, &fields, &body, false)
            .data(peer.id(), &more, false)
            .end(peer.id(), &trailers);
        host.say(&commands);
        let orders = peer.orders();
        let pieces: Vec<(&[u8], &[u8])> = orders.iter().map(|order| (&order.head[..], &order.body[..])).collect();
        assert_eq!(pieces, [(&b"link"[..], &[][..]), (&fields, &body), (&[], &more), (&trailers, &[])]);
        assert_eq!(orders.iter().map(|order| order.code).collect::<Vec<_>>(), [103, 200, 0, 0]);
        assert_eq!(orders.iter().map(|order| order.end).collect::<Vec<_>>(), [false, false, false, true]);
    }
}

#[test]
fn a_slow_stream_does_not_hold_what_came_for_others() {
    let (exchange, host, mut slow) = pair();
    let mut quick = Peer::open(&exchange, opening(0, u32::MAX), b"", b"").unwrap();
    for _ in 0..10 {
        host.say(&Commands::default().data(slow.id(), b"small", false).data(quick.id(), &bytes(1, 60_000), false));
        assert_eq!(quick.orders().len(), 1);
    }
    let shared = slow.orders().iter().filter(|order| !order.body.is_unique()).count();
    assert!(shared <= 2, "{shared} messages of five bytes hold 60 KB each");
}

#[test]
fn one_wrong_command_and_none_is_taken() {
    let (exchange, _host, mut peer) = pair();
    let good = Commands::default().data(peer.id(), b"good", false);
    let wrong = |change: fn(&mut Record)| {
        let mut record = good.records[0];
        change(&mut record);
        let error = exchange.submit(&[good.records[0], record], &good.arena, nothing_lent).unwrap_err();
        assert_eq!(error.status, Status::InvalidArgument);
        error.text
    };
    assert_eq!(wrong(|record| record.kind = 0), "command 1: kind must be a command (1 to 7, 9), found 0");
    assert_eq!(wrong(|record| record.kind = 255), "command 1: kind must be a command (1 to 7, 9), found 255");
    assert_eq!(wrong(|record| record.length = 5), "command 1: payload ends at byte 5 of an arena of 4");
    assert_eq!(
        wrong(|record| (record.offset, record.length) = (u32::MAX, u32::MAX)),
        "command 1: payload ends at byte 8589934590 of an arena of 4"
    );
    assert_eq!(
        wrong(|record| (record.kind, record.code, record.aux) = (Command::Head as u8, 200, u32::MAX)),
        "command 1: payload ends at byte 4294967299 of an arena of 4"
    );
    for (status, text) in [(0, "0"), (199, "199"), (1000, "1000")] {
        let mut record = Record { kind: Command::Head as u8, code: status, ..good.records[0] };
        record.length = 0;
        let error = exchange.submit(&[record], &[], nothing_lent).unwrap_err();
        assert_eq!(error.text, format!("command 0: status of HEAD must be 200 to 999, found {text}"));
    }
    assert_eq!(
        wrong(|record| (record.kind, record.code) = (Command::Inform as u8, 200)),
        "command 1: status of INFORM must be 100 to 199, found 200"
    );
    exchange.apply(None);
    assert!(peer.poll().is_pending());
    assert_eq!(exchange.counters().stale_commands, 0);
}

#[test]
fn a_host_that_ignores_every_window_is_told_to_wait() {
    let (exchange, host, mut peer) = pair();
    let arena = vec![0; 64 * 1024 * 1024 - 4096];
    let commands = Commands::default().data(peer.id(), b"", false);
    for _ in 0..4 {
        exchange.submit(&commands.records, &arena, nothing_lent).unwrap();
    }
    let error = exchange.submit(&commands.records, &[0; 16 * 1024], nothing_lent).unwrap_err();
    assert_eq!(error.status, Status::Busy);
    assert!(error.text.ends_with(" bytes of commands wait already"), "{}", error.text);
    // Records without payload count too, so that CREDIT alone cannot fill the memory.
    let credits = vec![commands.records[0]; 1024];
    assert_eq!(exchange.submit(&credits, &[], nothing_lent).unwrap_err().status, Status::Busy);
    exchange.submit(&commands.records, &[], nothing_lent).unwrap();
    exchange.apply(None);
    host.say(&Commands::default().end(peer.id(), b""));
    assert_eq!(peer.orders().len(), 6);
}

// --- close, wake-ups ---------------------------------------------------------------------------------------------

#[test]
fn close_ends_streams_producers_and_the_host_after_its_last_event() {
    let (exchange, mut host, mut peer) = pair();
    host.say(&Commands::default().data(peer.id(), b"before", false));
    assert_eq!(peer.orders().len(), 1);
    let (producer, consumer) = (Flag::new(&exchange), Flag::new(&exchange));
    assert!(exchange.poll_events(&Context::from_waker(&consumer.waker())).is_pending());
    while exchange.poll_ready(&Context::from_waker(&producer.waker())).is_ready() {
        exchange.announce(Event::Accept, 0, 0, 0, 0, b"");
    }
    consumer.take();
    exchange.close();
    assert!(peer.flag.take() && producer.take());
    assert_eq!(peer.poll(), Poll::Ready(None));
    assert!(exchange.poll_ready(&idle()).is_ready(), "nobody will make room");
    assert!(Peer::open(&exchange, opening(0, 0), b"", b"").is_none());
    drop(peer);
    let told = host.drain();
    assert_eq!((told.len(), told.last().unwrap().is(Event::Reset)), (4097, true));
    let error = host.take().unwrap_err();
    assert_eq!((error.status, &error.text[..]), (Status::Closed, "the runtime has stopped"));
    assert!(exchange.poll_events(&idle()).is_ready());
}

#[test]
fn the_host_is_woken_by_the_first_event_and_by_a_nudge() {
    let (exchange, mut host, peer) = pair();
    let consumer = Flag::new(&exchange);
    let wait = || exchange.poll_events(&Context::from_waker(&consumer.waker())).is_pending();
    assert!(wait());
    peer.stream.push(b"x", false);
    assert!(consumer.take() && !wait());
    host.drain();
    assert!(wait());
    exchange.nudge();
    assert!(consumer.take() && wait());
    exchange.close();
    assert!(consumer.take() && !wait());
}

/// Does, whenever it is woken, all one can do with an exchange.
struct Busybody {
    exchange: Arc<Exchange>,
    host: Mutex<Option<Host>>,
    woken: Mutex<u32>,
}

impl Wake for Busybody {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() += 1;
        // Its own calls wake it again; once is enough there.
        let Some(mut host) = self.host.lock().unwrap().take() else { return };
        let waker: Waker = self.clone().into();
        let context = Context::from_waker(&waker);
        let mut stream = self.exchange.open(opening(9, 9), &waker, |_| 0);
        let _ = self.exchange.poll_ready(&context);
        let _ = self.exchange.poll_events(&context);
        let _ = host.take();
        let commands = Commands::default().data(stream.as_ref().map_or(0, |stream| stream.id()), b"x", true);
        let _ = commands.submit(&self.exchange);
        self.exchange.apply(Some(&waker));
        self.exchange.nudge();
        self.exchange.leave();
        if let Some(stream) = &mut stream {
            let _ = stream.inlet().poll_credit(&context);
            let _ = stream.poll_order(&Context::from_waker(&waker));
            stream.inlet().fail(Reason::Gone);
        }
        drop(stream);
        self.exchange.counters();
        *self.host.lock().unwrap() = Some(host);
    }
}

#[test]
fn a_waker_may_do_anything() {
    let (done, is_done) = channel();
    // In a thread of its own, so that a deadlock is a failure and not a hang.
    thread::spawn(move || {
        let exchange = Arc::new(Exchange::default());
        let host = Mutex::new(Some(Host::new(&exchange)));
        let busybody = Arc::new(Busybody { exchange: exchange.clone(), host, woken: Mutex::new(0) });
        let waker: Waker = busybody.clone().into();
        let context = Context::from_waker(&waker);
        let mut last = 0;
        let mut woke = |what: &str| {
            let woken = *busybody.woken.lock().unwrap();
            assert!(woken > last, "{what} woke nobody");
            last = woken;
        };
        let open = || exchange.open(opening(0, 10), &waker, |_| 0).unwrap();
        let say = |commands: Commands| {
            commands.submit(&exchange).unwrap();
            exchange.apply(Some(&waker));
        };
        let listen = || {
            let mut host = Host::new(&exchange);
            host.drain();
            assert!(exchange.poll_events(&context).is_pending());
        };
        listen();
        let stream = open();
        woke("open");
        listen();
        stream.push(b"", false);
        woke("push");
        say(Commands::default().data(stream.id(), b"12", false));
        woke("an order");
        listen();
        stream.sent(9);
        exchange.announce(Event::Accept, 0, 0, 0, 0, b"");
        woke("announce");
        assert!(stream.inlet().poll_credit(&context).is_pending());
        say(Commands::default().credit(stream.id(), 1));
        woke("credit");
        listen();
        say(Commands::default().data(stream.id(), &[0; 99], false));
        woke("an overflow");
        listen();
        open().inlet().fail(Reason::Gone);
        woke("inlet.fail");
        listen();
        drop(open());
        woke("drop");
        listen();
        exchange.nudge();
        woke("nudge");
        exchange.apply(Some(&waker));
        exchange.submit(&[], &[], nothing_lent).unwrap();
        woke("submit");
        exchange.apply(Some(&waker));
        while exchange.poll_ready(&context).is_ready() {
            exchange.announce(Event::Accept, 0, 0, 0, 0, b"");
        }
        Host::new(&exchange).take().unwrap();
        woke("take");
        let _stream = open();
        exchange.close();
        woke("close");
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(30)).expect("a waker was called under a lock, or see the panic above");
}

// --- UPGRADE -----------------------------------------------------------------------------------------------------

/// A stream whose request was complete, or not, and was taken over.
fn upgraded(flags: u8, complete: bool) -> (Arc<Exchange>, Host, Peer) {
    let exchange = Arc::new(Exchange::default());
    let mut host = Host::new(&exchange);
    let opening = Opening { flags: if complete { FLAG_END } else { 0 }, ..opening(WINDOW, WINDOW) };
    let mut peer = Peer::open(&exchange, opening, b"line", b"fields").unwrap();
    host.say(&Commands::default().upgrade(peer.id(), flags, 0, b"a\0b"));
    let order = peer.orders().remove(0);
    assert_eq!((order.command, order.flags, order.code, &order.head[..]), (Command::Upgrade, flags, 101, &b"a\0b"[..]));
    host.drain();
    (exchange, host, peer)
}

#[test]
fn a_stream_of_bytes_has_two_directions_that_end_in_either_order() {
    for host_first in [true, false] {
        let (exchange, mut host, mut peer) = upgraded(0, true);
        peer.stream.push(b"raw", false);
        for first in [host_first, !host_first] {
            if first {
                host.say(&Commands::default().data(peer.id(), b"bye", false).end(peer.id(), b""));
                let orders = peer.orders();
                assert_eq!((orders.len(), orders[1].end), (2, true));
            } else {
                peer.stream.push(b"last", false);
                peer.stream.push_end(b"");
                assert!(kinds(&host.drain()).ends_with(&[Event::Data as u8, Event::End as u8]));
            }
            assert_eq!(exchange.counters().live, 1, "the slot stays until the protocol lets go");
        }
        peer.stream.push(b"late", false);
        drop(peer);
        assert_eq!(host.drain(), [], "both ends are known: nothing is told");
        assert_eq!(exchange.counters().live, 0);
    }
}

#[test]
fn a_direction_that_has_not_ended_is_reset() {
    let (_exchange, mut host, mut peer) = upgraded(0, true);
    host.say(&Commands::default().end(peer.id(), b""));
    assert_eq!(peer.orders().len(), 1);
    drop(peer);
    assert_eq!(kinds(&host.drain()), [Event::Reset as u8]);
}

#[test]
fn an_end_of_the_body_is_not_the_peers() {
    let (_exchange, mut host, peer) = upgraded(0, false);
    peer.stream.push(b"body", false);
    peer.stream.push_end(b"x-sum\x001");
    peer.stream.push(b"raw", false);
    peer.stream.push_end(b"");
    peer.stream.push(b"late", false);
    let (data, end) = (Event::Data as u8, Event::End as u8);
    assert_eq!(kinds(&host.drain()), [data, end, data, end]);
}

#[test]
fn a_host_may_stop_listening_before_or_after_it_stops_talking() {
    for sealed in [false, true] {
        let (exchange, mut host, mut peer) = upgraded(0, true);
        let commands = if sealed { Commands::default().end(peer.id(), b"") } else { Commands::default() };
        host.say(&commands.close(peer.id(), 1, b""));
        let orders = peer.orders();
        assert_eq!(orders.last().map(|order| (order.command, order.end, order.code)), Some((Command::End, true, 1)));
        peer.stream.push(b"unheard", false);
        peer.stream.push_end(b"");
        host.say(&Commands::default().close(peer.id(), 1, b"").credit(peer.id(), 5));
        assert_eq!(exchange.counters().stale_commands, 2);
        drop(peer);
        assert_eq!(host.drain(), [], "nobody listens");
    }
}

#[test]
fn after_its_end_a_host_says_credit_or_reset_and_nothing_else() {
    for flags in [0, FLAG_TEXT] {
        let (exchange, host, mut peer) = upgraded(flags, true);
        host.say(&Commands::default().close(peer.id(), u16::from(flags) * 250, b""));
        assert_eq!(peer.orders().len(), 1);
        let id = peer.id();
        let late = Commands::default().data(id, b"x", false).end(id, b"").ping(id, b"p").upgrade(id, 0, 0, b"");
        host.say(&late.head(id, 200, b"", b"", true).inform(id, 103, b""));
        assert_eq!(exchange.counters().stale_commands, 6);
        assert!(peer.poll().is_pending());
        host.say(&Commands::default().credit(id, 7));
        assert_eq!(peer.stream.credit(), WINDOW + 7);
        host.say(&Commands::default().reset(id, Reason::Cancelled));
        assert_eq!(peer.orders().remove(0).command, Command::Reset);
        assert_eq!(exchange.counters().live, 0);
    }
}

#[test]
fn a_closed_message_stream_is_over_on_both_sides() {
    let (exchange, mut host, mut peer) = upgraded(FLAG_TEXT, true);
    peer.stream.push_message(b"last", FLAG_TEXT);
    peer.stream.push_close(4009, b"why");
    peer.stream.push_pong(b"late");
    let told = host.drain();
    assert_eq!(kinds(&told), [Event::Data as u8, Event::End as u8]);
    assert_eq!((told[1].record.code, &told[1].payload[..]), (4009, &b"why"[..]));
    host.say(&Commands::default().data(peer.id(), b"late", false));
    assert_eq!(exchange.counters().stale_commands, 1);
    assert!(peer.poll().is_pending());
    drop(peer);
    assert_eq!(host.drain(), []);
}

#[test]
fn a_message_costs_more_than_its_bytes_both_ways() {
    let (exchange, mut host, mut peer) = upgraded(FLAG_TEXT, true);
    for sent in 1..=WINDOW / MESSAGE_COST {
        peer.stream.push_message(b"", FLAG_TEXT | FLAG_MORE);
        assert_eq!(peer.stream.credit(), WINDOW - sent * MESSAGE_COST);
    }
    assert_eq!(host.drain().last().map(|told| told.record.flags), Some(FLAG_TEXT | FLAG_MORE));
    let id = peer.id();
    host.say(&Commands::default().message(id, &bytes(1, 436), FLAG_MORE, false).message(id, &bytes(2, 436), 0, false));
    assert_eq!(exchange.counters().overflows, 0);
    assert_eq!(peer.orders().iter().map(|order| order.flags).collect::<Vec<_>>(), [FLAG_MORE, 0]);
    peer.stream.sent(500);
    assert_eq!(host.drain()[0].record.aux, 500);
    host.say(&Commands::default().message(id, &bytes(3, 437), 0, false));
    assert_eq!(exchange.counters().overflows, 1, "one byte more than half a window with its cost");
}

#[test]
fn an_upgrade_may_set_the_window() {
    let exchange = Arc::new(Exchange::default());
    let mut host = Host::new(&exchange);
    let opening = Opening { flags: FLAG_END, ..opening(WINDOW, WINDOW) };
    let mut peer = Peer::open(&exchange, opening, b"l", b"f").unwrap();
    let id = peer.id();
    host.say(&Commands::default().upgrade(id, FLAG_TEXT, 10 * WINDOW, b"").data(
        id,
        &bytes(1, 9 * WINDOW as usize),
        false,
    ));
    assert_eq!((peer.orders().len(), exchange.counters().overflows), (2, 0));
    peer.stream.sent(5 * WINDOW as usize - 1);
    assert_eq!(host.drain().len(), 1, "half of the new window, not of the old");
    peer.stream.sent(1);
    assert_eq!(kinds(&host.drain()), [Event::Writable as u8]);
}

#[test]
fn a_second_upgrade_breaks_the_stream_off() {
    let (_exchange, mut host, mut peer) = upgraded(0, true);
    host.say(&Commands::default().upgrade(peer.id(), FLAG_TEXT, 0, b""));
    let order = peer.orders().remove(0);
    assert_eq!((order.command, order.code), (Command::Reset, Reason::Internal as u16));
    let told = host.drain();
    assert_eq!((kinds(&told), told[0].record.code), (vec![Event::Reset as u8], Reason::Internal as u16));
}

#[test]
fn a_ping_carries_at_most_125_bytes_and_an_upgrade_ends_nothing() {
    let (exchange, host, mut peer) = upgraded(FLAG_TEXT, true);
    let refused = |commands: Commands| commands.submit(&exchange).unwrap_err().text;
    assert!(refused(Commands::default().ping(peer.id(), &[0; 126])).contains("found 126"));
    let mut ends = Commands::default().upgrade(peer.id(), 0, 0, b"");
    ends.records[0].flags |= FLAG_END;
    assert!(refused(ends).contains("UPGRADE ends nothing"));
    let mut odd = Commands::default().upgrade(peer.id(), 0, 0, b"");
    odd.records[0].code = 200;
    assert!(refused(odd).contains("found 200"));
    host.say(&Commands::default().ping(peer.id(), &[7; 125]));
    assert_eq!(peer.orders()[0].head, [7; 125][..]);
}

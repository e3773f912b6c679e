//! The vocabulary: one 32-byte record, the events it can be and the commands it can be. ADR 0001 holds the table.
//!
//! Numbers are append-only. Kinds that only later issues emit (WebSocket, TCP, RPC) are in the ADR and get their
//! number here when the code that speaks them lands.

/// One event or one command. Payloads lie in the arena that travels with the records.
///
/// `payload = arena[offset..offset + length]`; OPEN and HEAD are followed by `aux` bytes of body.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The stream this is about; 0 is the runtime itself. Ids are never reused.
    pub stream: u64,
    /// What the stream belongs to: listener of a connection, connection of an HTTP exchange, session of a call.
    pub parent: u64,
    /// Where the payload starts in the arena.
    pub offset: u32,
    /// Bytes of payload.
    pub length: u32,
    /// An [`Event`] or a [`Command`].
    pub kind: u8,
    /// `END`, `EXPECT`, and the protocol in the high nibble of OPEN.
    pub flags: u8,
    /// Per kind: status code, [`Reason`], log level, length of the request line.
    pub code: u16,
    /// Per kind: bytes of body after the head, bytes of credit, milliseconds.
    pub aux: u32,
}

const _: () = assert!(size_of::<Record>() == 32);

/// This record finishes its side of the stream.
pub const FLAG_END: u8 = 0x01;
/// OPEN: the client waits for `100 Continue`; the first CREDIT (or an INFORM) sends it.
pub const FLAG_EXPECT: u8 = 0x02;
/// OPEN: the peer offers another protocol (`Upgrade` of HTTP/1.1, extended CONNECT), which UPGRADE accepts.
pub const FLAG_UPGRADE: u8 = 0x04;
/// DATA of a message stream: the message is text. UPGRADE: the stream carries WebSocket messages, not bytes.
pub const FLAG_TEXT: u8 = 0x04;
/// DATA of a message stream: more of the same message follows.
pub const FLAG_MORE: u8 = 0x08;
/// HEAD and DATA: the body is not in the arena but where a [`Loan`] there says.
pub const FLAG_LENT: u8 = 0x10;
/// What each DATA of a message stream costs of credit and window besides its payload: empty messages are not free.
pub const MESSAGE_COST: u32 = 64;

/// Body bytes the host keeps for us instead of copying them. Of HEAD with LENT, the arena holds one in their place; of DATA
/// one or more, each as a DATA of its own. All of them come back together, by the token of the first.
///
/// The memory must neither change nor go before RETURNED names the token, or `sn_free` has returned.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// Where the first byte is.
    pub address: u64,
    /// How many there are; never 0.
    pub length: u64,
    /// What the host knows the loan by, not 0; 0 of the second and later ones.
    pub token: u64,
}

const _: () = assert!(size_of::<Loan>() == 24);

impl Loan {
    /// Reads the loans of a record, in the byte order of the machine; what is too short for one is left out.
    pub fn read(bytes: &[u8]) -> impl ExactSizeIterator<Item = Loan> {
        let number = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
        bytes.as_chunks::<24>().0.iter().map(move |loan| {
            let numbers = loan.as_chunks::<8>().0;
            Loan { address: number(&numbers[0]), length: number(&numbers[1]), token: number(&numbers[2]) }
        })
    }
}

/// OPEN: which protocol carries the stream, in the high nibble of `flags`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0.
    Http10 = 0x10,
    /// HTTP/1.1.
    Http11 = 0x20,
    /// HTTP/2.
    Http2 = 0x30,
    /// HTTP/3.
    Http3 = 0x40,
    /// A bare byte stream.
    Tcp = 0x80,
}

/// What native code tells.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection begins to carry streams. parent = listener; payload = peer host, peer port, local host, local port,
    /// scheme, NUL-joined; with TLS also version, cipher, ALPN protocol, server name, and the peer's chain in base64.
    Accept = 1,
    /// A stream begins. parent = connection; payload = line (`code` bytes: method, target, scheme, authority and, for an
    /// extended CONNECT, protocol, NUL-joined) and fields (name, value, ... NUL-joined); `aux` bytes of body follow; END when that is all of it.
    Open = 2,
    /// Bytes of body, or (TEXT, MORE) of a message.
    Data = 3,
    /// The peer's side is complete. payload = trailers, NUL-joined; of a message stream: code = close code, payload =
    /// its reason, and nothing follows.
    End = 4,
    /// The stream is over and nothing sent to it arrives any more. code = [`Reason`].
    Reset = 5,
    /// `aux` bytes of send window came back.
    Writable = 6,
    /// A connection or listener (or, with stream 0, the runtime) is gone.
    Closed = 7,
    /// code = level (10 debug, 20 info, 30 warning, 40 error, as Python's logging); payload = text.
    Log = 8,
    /// The runtime is stopping: what is left in `aux` milliseconds is reset. stream = 0.
    Drain = 9,
    /// The peer answered a PING. payload = what the ping carried.
    Pong = 13,
    /// Loans that nobody reads any more. stream = 0; payload = their tokens, 8 bytes each.
    Returned = 14,
}

/// What the host answers.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Response head. code = status; payload = fields NUL-joined; `aux` bytes of body (LENT: a [`Loan`]) follow; END when
    /// that is all. What is lent with END needs no window: the host has it all already.
    Head = 1,
    /// Bytes of body (LENT: a [`Loan`]); END when these are the last. Of a message stream: one message, or with MORE a piece
    /// of one.
    Data = 2,
    /// Our side is complete. payload = trailers, NUL-joined; of a message stream: code = close code (0: none), payload =
    /// its reason.
    End = 3,
    /// Abandon the stream; the peer sees an abrupt end, never a clean one. code = [`Reason`].
    Reset = 4,
    /// The host is ready for `aux` more bytes.
    Credit = 5,
    /// An interim response. code = 1xx; payload = fields NUL-joined.
    Inform = 6,
    /// Accepts what the peer offered, or (code 0: nothing is written) takes the bytes over as they are. code = 101;
    /// payload = fields; TEXT = WebSocket messages from now on; aux = bytes the host may send before WRITABLE (0: as
    /// before). DATA and END mean the new protocol afterwards.
    Upgrade = 7,
    /// Asks the peer of a message stream for a PONG. payload = up to 125 bytes.
    Ping = 9,
}

impl Command {
    const ALL: [Command; 8] = [
        Command::Head,
        Command::Data,
        Command::End,
        Command::Reset,
        Command::Credit,
        Command::Inform,
        Command::Upgrade,
        Command::Ping,
    ];

    /// The command with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Command> {
        Self::ALL.into_iter().find(|command| *command as u8 == number)
    }
}

/// Why a stream ended early, as `code` of RESET.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The peer closed or reset; nobody is there to read an answer.
    Gone = 1,
    /// The peer broke the protocol in the middle of the stream.
    Protocol = 2,
    /// The peer was too slow (body rate, write stall).
    Timeout = 3,
    /// A limit was passed (body size, flow-control window).
    Limit = 4,
    /// The runtime is stopping and the deadline has come.
    Stopping = 5,
    /// The native side failed; a LOG event says how.
    Internal = 6,
    /// The host gave the stream up.
    Cancelled = 7,
}

impl Reason {
    /// The reason with this number; an unknown one counts as given up by the host.
    pub fn from_number(number: u16) -> Reason {
        [Reason::Gone, Reason::Protocol, Reason::Timeout, Reason::Limit, Reason::Stopping, Reason::Internal]
            .into_iter()
            .find(|reason| *reason as u16 == number)
            .unwrap_or(Reason::Cancelled)
    }
}

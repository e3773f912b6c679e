//! How much the kernel takes for a client beyond what may be sent to it now (`TCP_NOTSENT_LOWAT`); a leaf.
//!
//! Without a limit that is as much as its buffers may grow to, 4 MiB besides `send_window` for a client that does not read; and
//! for one with a tiny window it makes a buffer of each kilobyte, which keeps others waiting: 500 of them for 160 ms with
//! 512 KiB, for 40 ms with 64. A client that reads pays for that limit: an answer of 1 MiB goes in four writes, not one, each
//! of which wakes it, for 17 % of the rate on loopback. So a socket begins narrow and is widened by what its peer does.

use socket2::Socket;

/// What a socket begins with.
pub const NARROW: u32 = 64 * 1024;
/// What one gets whose peer takes much at once; more was not faster.
pub const WIDE: u32 = 1024 * 1024;

/// Sets the limit; accepted sockets inherit their listener's. A system that does not know the option goes on as before, and so
/// do Apple's, for which socket2 does not wrap it.
pub fn limit(socket: &Socket, bytes: u32) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket.set_tcp_notsent_lowat(bytes);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (socket, bytes);
}

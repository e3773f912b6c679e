//! The network core of server_native: sockets below, batches of records above, a C ABI on top.
//!
//! ```text
//!  socket bytes -> listen -> tls -> http (guard, h1, h2, h3, websocket) | tcp | rpc
//!                              | OPEN DATA END RESET
//!                              v
//!                          exchange   stream table, bounded queues, credit; no sockets, no clock, no protocol
//!                              | sn_next: records + one arena        | sn_submit: records + one arena
//!                              v                                     ^
//!                            ffi  <->  runtime (who drives the sockets)
//! ```
//!
//! Read in this order: [`record`] (the vocabulary, ADR 0001), [`exchange`] (the core), [`runtime`] (who drives),
//! [`listen`], [`tls`], [`http`]. [`address`], [`limits`], `unsent` and [`error`] are leaves. Only `ffi` may use `unsafe`.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod address;
pub mod batch;
pub mod connections;
pub mod error;
pub mod exchange;
#[allow(unsafe_code)]
mod ffi;
pub mod http;
pub mod limits;
pub mod listen;
pub mod record;
pub mod runtime;
pub mod tls;
mod unsent;

//! What the host orders, as bytes of HTTP/1.1.

use super::exchange::{Answer, Exchanging};
use super::{CONTINUE, DISCARD, Session};
use crate::exchange::Order;
use crate::http::Transport;
use crate::http::guard::Version;
use crate::http::heads::{self, Delimiter, Persistence, Template};
use crate::http::upgrade::Mode;
use crate::record::{Command, Reason};

impl<S: Transport> Session<S> {
    pub(super) fn obey(&mut self, now: &mut Exchanging, order: Order) -> Result<(), Reason> {
        match order.command {
            Command::Head if now.answer == Answer::Awaited => self.answer(now, order),
            Command::Inform if now.answer == Answer::Awaited => {
                if now.version == Version::Http11
                    && let Err(text) = heads::write_interim(self.output.tail(), order.code, &order.head)
                {
                    self.log(&format!("an interim response was left out: {text}"));
                }
                Ok(())
            }
            Command::Upgrade if now.answer == Answer::Awaited => {
                self.upgrade(now, &order);
                Ok(())
            }
            Command::Data | Command::End => {
                let Answer::Body(delimiter, left) = now.answer else {
                    self.log("the host sent a body before its head; the stream is reset");
                    return Err(Reason::Internal);
                };
                self.answer_body(now, delimiter, left, order)
            }
            Command::Reset => Err(Reason::from_number(order.code)),
            Command::Ping => {
                self.log("the host sent a ping on a stream that carries no messages; the stream is reset");
                Err(Reason::Internal)
            }
            Command::Head | Command::Inform | Command::Upgrade | Command::Credit => {
                self.log("the host sent a second head; the stream is reset");
                Err(Reason::Internal)
            }
        }
    }

    fn answer(&mut self, now: &mut Exchanging, order: Order) -> Result<(), Reason> {
        let site = self.connection.site.clone();
        let template = match site.heads.template(order.code, &order.head) {
            Ok(template) => template,
            Err(text) => {
                self.answer_500(now, &text);
                return Ok(());
            }
        };
        let delimiter = delimiter(&template, &order, now);
        let silent = now.is_head || template.is_bodiless();
        if let (Delimiter::Length(length), true) = (delimiter, order.end && !silent)
            && length != order.body.len() as u64
        {
            self.answer_500(now, &format!("content-length is {length}, the body has {} bytes", order.body.len()));
            return Ok(());
        }
        let unread = !now.body.is_done() && (now.expects || now.body.remaining().is_none_or(|left| left > DISCARD));
        now.persistent &= !template.close && !unread && delimiter != Delimiter::Close;
        let persistence = self.persistence(now.version, now.persistent);
        now.persistent = persistence != Persistence::Close;
        let date = || self.connection.member.connections().date();
        template.write(self.output.tail(), delimiter, persistence, &site.alt_svc, date);
        if order.end {
            now.answer = Answer::Complete;
            if silent {
                return Ok(());
            }
            match delimiter {
                Delimiter::Chunked => {
                    self.output.push_chunk(order.body);
                    // Only a streamed answer is chunked, and it ends with its own END.
                }
                _ => self.output.push(order.body),
            }
            return Ok(());
        }
        now.answer = Answer::Body(
            if silent { Delimiter::Nothing } else { delimiter },
            match delimiter {
                Delimiter::Length(length) => length,
                _ => u64::MAX,
            },
        );
        if order.body.is_empty() {
            return Ok(());
        }
        let Answer::Body(delimiter, left) = now.answer else { return Ok(()) };
        self.answer_body(now, delimiter, left, Order { command: Command::Data, ..order })
    }

    /// Writes the head that ends HTTP on this connection (RFC 9110 section 7.8), or none when the host writes its own.
    fn upgrade(&mut self, now: &mut Exchanging, order: &Order) {
        let mode = Mode::of(order.flags);
        if mode == Mode::Messages && !now.body.is_done() {
            return self.answer_500(now, "the host accepts a WebSocket before the request's body has ended");
        }
        let offer = now.offer.take();
        let key = offer.as_ref().and_then(|offer| offer.key.as_deref());
        if order.code == 101 {
            let Some(offer) = &offer else {
                return self.answer_500(now, "the host accepts an upgrade that the client has not offered");
            };
            if now.expects {
                // Both were asked for, and this comes first (RFC 9110 section 10.1.1).
                self.output.tail().extend_from_slice(CONTINUE);
            }
            if let Err(text) = heads::write_switch(self.output.tail(), &offer.protocol, key, mode, &order.head) {
                return self.answer_500(now, &text);
            }
        }
        now.answer = Answer::Upgraded(mode);
    }

    /// The host's answer cannot be sent, and nothing of it has been.
    fn answer_500(&mut self, now: &mut Exchanging, text: &str) {
        self.log(&format!("a response was refused and the client got 500: {text}"));
        self.write_error(500, "", now.is_head);
        now.persistent = false;
        now.answer = Answer::Complete;
    }

    fn answer_body(
        &mut self,
        now: &mut Exchanging,
        delimiter: Delimiter,
        left: u64,
        order: Order,
    ) -> Result<(), Reason> {
        let size = order.body.len() as u64;
        let (end, trailers) = (order.end, order.head);
        if delimiter == Delimiter::Nothing {
            now.stream.sent(order.body.len());
        } else {
            if size > left || (end && matches!(delimiter, Delimiter::Length(_)) && size < left) {
                self.log(&format!(
                    "the response body has not the length its head says ({left} bytes were left, {size} came)"
                ));
                return Err(Reason::Internal);
            }
            now.unreported += order.body.len();
            match delimiter {
                Delimiter::Chunked => self.output.push_chunk(order.body),
                _ => self.output.push(order.body),
            }
        }
        now.answer = if end { Answer::Complete } else { Answer::Body(delimiter, left.saturating_sub(size)) };
        if end && delimiter == Delimiter::Chunked {
            self.end_chunks(&trailers);
        }
        Ok(())
    }

    fn end_chunks(&mut self, trailers: &[u8]) {
        let last = self.output.tail();
        last.extend_from_slice(b"0\r\n");
        let before = last.len();
        let refused = heads::write_fields(last, trailers).err();
        if refused.is_some() {
            last.truncate(before);
        }
        last.extend_from_slice(b"\r\n");
        if let Some(text) = refused {
            self.log(&format!("trailers were left out: {text}"));
        }
    }
}

fn delimiter(template: &Template, order: &Order, now: &Exchanging) -> Delimiter {
    if matches!(template.status, 204 | 100..=199) {
        return Delimiter::Nothing;
    }
    if template.status == 205 {
        return Delimiter::Length(0);
    }
    if now.is_head || template.status == 304 {
        // What a GET would have said (RFC 9110 section 8.6), if the host knows.
        let known = template.length.or((order.end && !order.body.is_empty()).then_some(order.body.len() as u64));
        return known.map_or(Delimiter::Nothing, Delimiter::Length);
    }
    match template.length {
        Some(length) => Delimiter::Length(length),
        None if order.end => Delimiter::Length(order.body.len() as u64),
        None if now.version == Version::Http11 => Delimiter::Chunked,
        None => Delimiter::Close,
    }
}

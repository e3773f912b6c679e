//! Every rule of the gate, each way.

use std::mem::MaybeUninit;

use super::*;

/// Small enough to be reached by the table.
fn small() -> Limits {
    Limits { head_bytes: 512, header_fields: 4, uri_bytes: 64, ..Limits::default() }
}

/// What a head is read as, in one line: method, target, authority, framing and flags; or the status; or "more".
fn read(input: &[u8]) -> String {
    let mut storage = [MaybeUninit::uninit(); 256];
    match read_head(input, &small(), &mut storage) {
        Ok(None) => "more".into(),
        Err(rejection) => rejection.status.to_string(),
        Ok(Some(head)) => {
            let framing = match head.framing {
                Framing::None => "-".into(),
                Framing::Length(length) => length.to_string(),
                Framing::Chunked => "chunked".into(),
            };
            let flags = [
                (head.keep_alive, " keep"),
                (head.expect_continue, " expect"),
                (head.upgrade, " upgrade"),
                (head.length != input.len(), " rest"),
            ];
            let flags: String = flags.iter().filter(|flag| flag.0).map(|flag| flag.1).collect();
            format!("{} {} {:?} {framing}{flags}", head.method, head.target, head.authority)
        }
    }
}

#[test]
fn heads() {
    let good = "GET / \"a\" - keep";
    let cases: &[(&[u8], &str)] = &[
        // Request line.
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", good),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", "GET / \"a\" - keep rest"),
        (b"BREW /tea?x=1%20&y=[2] HTTP/1.1\r\nHost: a\r\n\r\n", "BREW /tea?x=1%20&y=[2] \"a\" - keep"),
        (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", "get / \"a\" - keep"),
        (b"G\x00T / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b" / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "400"),
        (b"GET / HTTP/1.1 x\r\nHost: a\r\n\r\n", "400"),
        (b"GET /\r\n", "400"),
        (b"GET / \r\nHost: a\r\n\r\n", "400"),
        (b"GET / http/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET / HTTP/1\r\nHost: a\r\n\r\n", "400"),
        (b"GET / HTTP/11\r\nHost: a\r\n\r\n", "400"),
        (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", "400"),
        (b"GET / HTTP/x.y\r\nHost: a\r\n\r\n", "400"),
        (b"GET / HTTP/2.0\r\n", "505"),
        (b"GET / HTTP/1.2\r\n", "505"),
        (b"GET / HTTP/0.9\r\n", "505"),
        (b"GET / HTTP/2.0\n", "400"),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "501"),
        // Leading empty lines.
        (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", good),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", good),
        (b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        // Incomplete.
        (b"", "more"),
        (b"\r", "more"),
        (b"\r\n\r\n\r", "more"),
        (b"GE", "more"),
        (b"GET /", "more"),
        (b"GET / HTTP/2", "more"),
        (b"GET / HTTP/2.0", "more"),
        (b"GET / HTTP/1.1\r", "more"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r", "more"),
        // Judged before the end.
        (b"\x16\x03\x01", "400"),
        (b"\x00", "400"),
        (b"GET \x7f", "400"),
        (b"GET /a\nb", "400"),
        (b"GET x", "400"),
        (b"GET / HTTP/2.0\r", "505"),
        (b"GET / HTTP/1.1\n", "400"),
        (b"GET / HTTP/1.1\rH", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\x00", "400"),
        // Target.
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * \"a\" - keep"),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"OPTIONS *x HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET index.html HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET ?q HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET /< HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET /\"{|} HTTP/1.1\r\nHost: a\r\n\r\n", "GET /\"{|} \"a\" - keep"),
        (b"GET /?\" HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET /?` HTTP/1.1\r\nHost: a\r\n\r\n", "GET /?` \"a\" - keep"),
        (b"GET http://b/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x?y \"b\" - keep"),
        (b"GET HTTPS://b:8443 HTTP/1.1\r\nHost: a\r\n\r\n", "GET / \"b:8443\" - keep"),
        (b"GET http://[::1]:8/ HTTP/1.0\r\n\r\n", "GET / \"[::1]:8\" -"),
        (b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET http:/b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        // Lines and fields.
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\rX: b\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX@: b\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\x80: b\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \t b\tc\xe4 \r\nY:\r\n\r\n", good),
        // Host.
        (b"GET / HTTP/1.1\r\n\r\n", "400"),
        (b"GET / HTTP/1.0\r\n\r\n", "GET / \"\" -"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", "400"),
        (b"GET / HTTP/1.0\r\nHost: a\r\nhost: a\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a-1.b_c:65535\r\n\r\n", "GET / \"a-1.b_c:65535\" - keep"),
        (b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", "GET / \"[2001:db8::1]:80\" - keep"),
        (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a:+1\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a%62\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: \xc3\xa4\r\n\r\n", "400"),
        // Framing.
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "PUT / \"a\" 0 keep"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0012 \r\n\r\n", "PUT / \"a\" 12 keep"),
        (
            b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n",
            "PUT / \"a\" 9223372036854775807 keep",
        ),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: -0\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5_0\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\n\r\n", "PUT / \"a\" chunked keep"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", "400"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", "400"),
        (b"PUT / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
        // Connection, Upgrade, Expect.
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", "GET / \"a\" -"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x , close\r\nConnection: keep-alive\r\n\r\n", "GET / \"a\" -"),
        (b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", good),
        (b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n", "GET / \"a\" -"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: , close,\r\n\r\n", "GET / \"a\" -"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: \x80, close\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close;x\r\n\r\n", "400"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: x\r\n\r\n",
            "GET / \"a\" - keep upgrade",
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n", good),
        (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n", good),
        (b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, upgrade\r\nUpgrade: x\r\n\r\n", good),
        (
            b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n",
            "PUT / \"a\" 1 keep expect",
        ),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", "417"),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nExpect:\r\n\r\n", "417"),
        (b"PUT / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", "PUT / \"a\" -"),
        // Limits.
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: \r\nB: \r\nC: \r\n\r\n", good),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: \r\nB: \r\nC: \r\nD: \r\n", "431"),
    ];
    for (input, expected) in cases {
        assert_eq!(read(input), *expected, "{:?}", input.escape_ascii().to_string());
    }
}

#[test]
fn head_limits_are_exact() {
    let of = |target: usize, value: usize| {
        format!("GET /{} HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "t".repeat(target - 1), "v".repeat(value)).into_bytes()
    };
    assert!(read(&of(64, 1)).starts_with("GET /t"));
    assert_eq!(read(&of(65, 1)), "414");
    assert_eq!(read(&of(65, 1)[..69]), "414");
    assert_eq!(read(&of(64, 1)[..68]), "more");
    let room = 512 - of(1, 0).len();
    assert!(read(&of(1, room)).starts_with("GET / "));
    assert_eq!(read(&of(1, room)[..511]), "more");
    assert_eq!(read(&of(1, room + 1)), "431");
    assert_eq!(read(&of(1, room + 1)[..512]), "431");
}

#[test]
fn a_long_head_in_pieces_is_still_read_and_still_judged() {
    let limits = Limits::default();
    let long = |line: &str| format!("{line}\r\nHost: a\r\nX: {}\r\n\r\n", "v".repeat(10_000));
    let good = long("GET / HTTP/1.1");
    let mut storage = [MaybeUninit::uninit(); 8];
    assert!(matches!(read_head(&good.as_bytes()[..9_000], &limits, &mut storage), Ok(None)));
    let mut storage = [MaybeUninit::uninit(); 8];
    assert!(matches!(read_head(good.as_bytes(), &limits, &mut storage), Ok(Some(head)) if head.length == good.len()));
    let mut storage = [MaybeUninit::uninit(); 8];
    let bad = long("GET / HTTP/3.0");
    assert_eq!(read_head(&bad.as_bytes()[..9_000], &limits, &mut storage).unwrap_err().status, 505);
}

/// Target bytes are exactly those of the http crate, less `#` and everything outside ASCII.
#[test]
fn target_bytes_are_those_of_the_http_crate() {
    for byte in 0..=255u8 {
        for front in [&b"/"[..], b"/?"] {
            let target = [front, &[byte]].concat();
            let theirs = byte < 0x80 && byte != b'#' && http::uri::PathAndQuery::try_from(&target[..]).is_ok();
            let ours = judge_target_bytes(&target, &Limits::default()).is_ok();
            assert_eq!(ours, theirs, "{:?}", target.escape_ascii().to_string());
        }
    }
}

/// A body of the framing, read from input that arrives in pieces of `step` bytes: its data, the trailers and what
/// was left over; or the status; or "more".
fn decode(framing: Framing, input: &[u8], step: usize) -> String {
    let mut body = Body::new(framing, &small());
    let (mut start, mut end, mut data) = (0, 0, Vec::new());
    loop {
        match body.decode(&input[start..end]) {
            Err(rejection) => return rejection.status.to_string(),
            Ok(now) => {
                data.extend_from_slice(now.data);
                start += now.consumed;
                assert_eq!(now.done, body.is_done());
                if now.done {
                    let parts = [&data[..], body.trailers(), &input[start..]];
                    return parts.map(|part| part.escape_ascii().to_string()).join("|");
                }
                if now.consumed == 0 {
                    assert!(now.data.is_empty());
                    if end == input.len() {
                        return "more".into();
                    }
                    end = input.len().min(end + step);
                }
            }
        }
    }
}

/// The same with what is there gathered, in pieces of about `room` bytes.
fn gather(framing: Framing, input: &[u8], step: usize, room: usize) -> String {
    let mut body = Body::new(framing, &small());
    let mut input = input.to_vec();
    let (mut start, mut end, mut data) = (0, 0, Vec::new());
    loop {
        match body.gather(&mut input[start..end], room) {
            Err(rejection) => return rejection.status.to_string(),
            Ok(now) => {
                data.extend_from_slice(now.data);
                start += now.consumed;
                if now.done {
                    let parts = [&data[..], body.trailers(), &input[start..]];
                    return parts.map(|part| part.escape_ascii().to_string()).join("|");
                }
                if now.consumed == 0 {
                    if end == input.len() {
                        return "more".into();
                    }
                    end = input.len().min(end + step);
                }
            }
        }
    }
}

#[test]
fn what_is_there_is_one_piece_in_however_many_chunks() {
    let mut input = b"1\r\na\r\n".repeat(1_000);
    input.extend_from_slice(b"3\r\nbcd\r\n0\r\n\r\nGET");
    let length = input.len() - 3;
    let mut body = Body::new(Framing::Chunked, &small());
    let all = [&b"a".repeat(1_000)[..], b"bcd"].concat();
    assert_eq!(body.gather(&mut input, usize::MAX), Ok(Decoded { consumed: length, data: &all, done: true }));
    // With room for less, the chunk that fills it is the last.
    let mut body = Body::new(Framing::Chunked, &small());
    let gathered = body.gather(&mut b"1\r\na\r\n3\r\nbcd\r\n1\r\ne\r\n".to_vec(), 2).map(|now| now.data.to_vec());
    assert_eq!(gathered, Ok(b"abcd".to_vec()));
    assert_eq!(Body::new(Framing::Chunked, &small()).gather(&mut b"1\r\na".to_vec(), 0).unwrap().consumed, 0);
}

#[test]
fn bodies() {
    use Framing::{Chunked, Length};
    let cases: &[(Framing, &[u8], &str)] = &[
        (Framing::None, b"GET", "||GET"),
        (Length(0), b"GET", "||GET"),
        (Length(3), b"abcGET", "abc||GET"),
        (Length(3), b"ab", "more"),
        // Sizes.
        (Chunked, b"3\r\nabc\r\n0\r\n\r\nGET", "abc||GET"),
        (Chunked, b"3\r\nabc\r\n00a\r\n0123456789\r\n0000\r\n\r\n", "abc0123456789||"),
        (Chunked, b"0000000000000001\r\na\r\n0\r\n\r\n", "a||"),
        (Chunked, b"00000000000000001\r\na\r\n0\r\n\r\n", "400"),
        (Chunked, b"FFFFFFFFFFFFFFFF\r\n", "400"),
        (Chunked, b"FFFFFFFFFFFFFFFF0\r\n", "400"),
        (Chunked, b"7FFFFFFFFFFFFFFF\r\n", "more"),
        (Chunked, b"\r\n", "400"),
        (Chunked, b";a\r\n", "400"),
        (Chunked, b"0x3\r\nabc\r\n0\r\n\r\n", "400"),
        (Chunked, b"+3\r\nabc\r\n0\r\n\r\n", "400"),
        (Chunked, b"-3\r\n", "400"),
        (Chunked, b"0_3\r\nabc\r\n0\r\n\r\n", "400"),
        (Chunked, b" 3\r\nabc\r\n0\r\n\r\n", "400"),
        (Chunked, b"3 \r\nabc\r\n0\r\n\r\n", "400"),
        (Chunked, b"3 ;a\r\nabc\r\n0\r\n\r\n", "400"),
        (Chunked, b"3\nabc\r\n0\r\n\r\n", "400"),
        (Chunked, b"3\r\rabc", "400"),
        (Chunked, b"g\r\n", "400"),
        // Extensions.
        (Chunked, b"3;a=\"b c\";d\r\nabc\r\n0;z\r\n\r\n", "abc||"),
        (Chunked, b"3;\r\nabc\r\n0\r\n\r\n", "abc||"),
        (Chunked, b"3;a\nbc\r\nabc\r\n0\r\n\r\n", "400"),
        (Chunked, b"3;a\rbc\r\nabc\r\n0\r\n\r\n", "400"),
        (Chunked, b"3;a\x00\r\nabc\r\n0\r\n\r\n", "400"),
        // After the data.
        (Chunked, b"3\r\nabcd\r\n0\r\n\r\n", "400"),
        (Chunked, b"3\r\nabc\n0\r\n\r\n", "400"),
        (Chunked, b"3\r\nabc\rx", "400"),
        (Chunked, b"3\r\nabc0\r\n\r\n", "400"),
        (Chunked, b"3\r\nabc\r\n0\r\n", "more"),
        (Chunked, b"0\r\n\r", "more"),
        // Trailers.
        (Chunked, b"0\r\nX-Sum: \t1 2\t \r\nE:\r\n\r\nGET", "|x-sum\\x001 2\\x00e\\x00|GET"),
        (Chunked, b"0\r\nContent-Length: 1\r\n\r\n", "400"),
        (Chunked, b"0\r\ntransfer-encoding: chunked\r\n\r\n", "400"),
        (Chunked, b"0\r\nHost: a\r\n\r\n", "400"),
        (Chunked, b"0\r\nTE: a\r\n\r\n", "400"),
        (Chunked, b"0\r\nX : a\r\n\r\n", "400"),
        (Chunked, b"0\r\n: a\r\n\r\n", "400"),
        (Chunked, b"0\r\nX\r\n\r\n", "400"),
        (Chunked, b"0\r\nX: a\r\n b\r\n\r\n", "400"),
        (Chunked, b"0\r\nX: a\n\r\n", "400"),
        (Chunked, b"0\r\nX: a\rb\r\n\r\n", "400"),
        (Chunked, b"0\r\nX: a\x00\r\n\r\n", "400"),
        (Chunked, b"0\r\n\n", "400"),
        (Chunked, b"0\r\na:\r\nb:\r\nc:\r\nd:\r\n\r\n", "|a\\x00\\x00b\\x00\\x00c\\x00\\x00d\\x00|"),
        (Chunked, b"0\r\na:\r\nb:\r\nc:\r\nd:\r\ne:\r\n\r\n", "431"),
    ];
    for (framing, input, expected) in cases {
        for step in [1, 2, 3, 7, input.len()] {
            let text = input.escape_ascii().to_string();
            assert_eq!(decode(*framing, input, step), *expected, "{text:?} by {step}");
            for room in [1, 4, 100] {
                assert_eq!(gather(*framing, input, step, room), *expected, "{text:?} by {step} in pieces of {room}");
            }
        }
    }
}

#[test]
fn body_limits_are_exact() {
    let line = |extension: usize| [b"1;", &vec![b'x'; extension - 1][..], b"\r\na\r\n"].concat();
    let whole = |lines: &[usize]| {
        let mut input: Vec<u8> = lines.iter().flat_map(|extension| line(*extension)).collect();
        input.extend_from_slice(b"0\r\n\r\n");
        decode(Framing::Chunked, &input, input.len())
    };
    assert_eq!(whole(&[4093]), "a||");
    assert_eq!(whole(&[4094]), "400");
    assert_eq!(whole(&[4093, 4093, 4093, 4093, 12]), "aaaaa||");
    assert_eq!(whole(&[4093, 4093, 4093, 4093, 13]), "400");
    // "0" CRLF, then a section of 512 bytes: "x:" value CRLF CRLF.
    let trailers = |value: usize| {
        let input = [b"0\r\nx:", &vec![b'v'; value][..], b"\r\n\r\n"].concat();
        decode(Framing::Chunked, &input, 1)
    };
    assert!(trailers(506).starts_with("|x"));
    assert_eq!(trailers(507), "431");
}

#[test]
fn remaining_is_known_for_declared_lengths() {
    let mut body = Body::new(Framing::Length(5), &small());
    assert_eq!(body.decode(b"ab"), Ok(Decoded { consumed: 2, data: b"ab", done: false }));
    assert_eq!(body.remaining(), Some(3));
    assert_eq!(Body::new(Framing::Chunked, &small()).remaining(), None);
}

//! Requests answered natively: constant responses that cost no crossing and no GIL (mission H19).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;

use super::heads::{Delimiter, Template};

/// One constant response.
#[derive(Debug)]
pub struct Route {
    /// The checked head.
    pub template: Template,
    /// The body.
    pub body: Bytes,
}

/// Exact paths to responses, per listener; read-only once it accepts.
#[derive(Debug, Default)]
pub struct Routes {
    by_path: HashMap<Vec<u8>, Arc<Route>>,
}

impl Routes {
    /// Answers GET and HEAD of `path` with this from now on.
    pub fn add(&mut self, path: &[u8], status: u16, fields: &[u8], body: &[u8]) -> Result<(), String> {
        if path.first() != Some(&b'/') || path.iter().any(|byte| *byte <= b' ' || b"?#\x7f".contains(byte)) {
            let found = String::from_utf8_lossy(path);
            return Err(format!("a route's path must begin with '/' and have no query, space or '#', found {found:?}"));
        }
        let template = Template::new(status, fields)?;
        if template.length.is_some_and(|length| length != body.len() as u64) {
            return Err(format!("content-length of the route is not its body's {} bytes", body.len()));
        }
        if template.is_bodiless() && !body.is_empty() {
            return Err(format!("status {status} has no body, found {} bytes", body.len()));
        }
        let route = Route { template, body: Bytes::copy_from_slice(body) };
        self.by_path.insert(path.to_vec(), Arc::new(route));
        Ok(())
    }

    /// The response for a request without body.
    pub fn find(&self, method: &str, target: &str) -> Option<&Arc<Route>> {
        if self.by_path.is_empty() || !matches!(method, "GET" | "HEAD") {
            return None;
        }
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        self.by_path.get(path.as_bytes())
    }
}

impl Route {
    /// What content-length says; `None`: this status has no body.
    pub fn length(&self) -> Option<u64> {
        (!self.template.is_bodiless()).then_some(self.body.len() as u64)
    }

    /// The body that an answer to this method has.
    pub fn body_for(&self, method: &Method) -> Bytes {
        if method == Method::HEAD { Bytes::new() } else { self.body.clone() }
    }

    /// How the body is delimited in HTTP/1.1.
    pub fn delimiter(&self) -> Delimiter {
        match self.template.status {
            205 => Delimiter::Length(0),
            _ if self.template.is_bodiless() => Delimiter::Nothing,
            _ => Delimiter::Length(self.body.len() as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_answers_get_and_head_whatever_the_query() {
        let mut routes = Routes::default();
        routes.add(b"/health", 200, b"content-type\0text/plain", b"ok").unwrap();
        assert!(routes.find("GET", "/health?deep=1").is_some());
        assert!(routes.find("HEAD", "/health").is_some());
        assert!(routes.find("POST", "/health").is_none());
        assert!(routes.find("GET", "/health/").is_none());
    }

    #[test]
    fn an_impossible_route_is_refused() {
        let mut routes = Routes::default();
        for (path, status, fields, body) in [
            (&b"health"[..], 200, &b""[..], &b""[..]),
            (b"/a?b", 200, b"", b""),
            (b"/", 204, b"", b"x"),
            (b"/", 200, b"content-length\x003", b"x"),
        ] {
            assert!(routes.add(path, status, fields, body).is_err());
        }
    }
}

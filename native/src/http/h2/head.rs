//! Response heads as h2 takes them: of a template, made once, and what changes.

use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::http::Connection;
use crate::http::heads::Template;

/// The head of a response with a body of this length, or of an unknown one or none.
pub(super) fn response(template: &Template, length: Option<u64>, connection: &Connection) -> Response<()> {
    let mut response = Response::new(());
    // `StatusCode` knows every number the exchange lets pass.
    *response.status_mut() = StatusCode::from_u16(template.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut fields = template.map(|template| map(template, &connection.site.alt_svc)).clone();
    match length {
        Some(length) => drop(fields.insert(CONTENT_LENGTH, length.into())),
        None => drop(fields.remove(CONTENT_LENGTH)),
    }
    if !template.is_dated() {
        fields.insert(DATE, connection.member.connections().date_value());
    }
    *response.headers_mut() = fields;
    response
}

/// The fields that are always the same, and a place for those that are not: a clone has no room for more.
fn map(template: &Template, alt_svc: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    let advertised = Some((&b"alt-svc"[..], alt_svc)).filter(|_| !alt_svc.is_empty() && !template.is_advertised());
    for (name, value) in template.fields().chain(advertised) {
        // A template has checked what both want to know.
        if let (Ok(name), Ok(value)) = (HeaderName::from_lowercase(name), HeaderValue::from_bytes(value)) {
            fields.append(name, value);
        }
    }
    fields.insert(CONTENT_LENGTH, HeaderValue::from_static(""));
    if !template.is_dated() {
        fields.insert(DATE, HeaderValue::from_static(""));
    }
    fields
}

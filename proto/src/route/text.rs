//! Reading the fields of a route, each into its one form.

use std::net::Ipv6Addr;

use super::{Header, Host, MAX_HEADERS, MAX_PRIORITY};
use crate::{Check, Invalid, policy::Methods, token::is_token, v1};

/// As RFC 1035 bounds it.
const MAX_HOST_CHARS: usize = 253;
const MAX_PATH_CHARS: usize = 256;
const MAX_HEADER_NAME_CHARS: usize = 64;
const MAX_HEADER_VALUE_CHARS: usize = 256;

pub(super) fn host(text: &str) -> Result<Host, Invalid> {
    let refuse = |why: &str| Err(Invalid::new("host", why));
    if text.is_empty() {
        return Ok(Host::Any);
    }
    if text.len() > MAX_HOST_CHARS {
        return refuse("is longer than 253 characters");
    }
    let lower = text.to_ascii_lowercase();
    if let Some(address) = lower.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match address.parse::<Ipv6Addr>() {
            Ok(address) => Ok(Host::Name(format!("[{address}]").into())),
            Err(_) => refuse("has no IPv6 address between its brackets"),
        };
    }
    if lower.contains(':') {
        return refuse("is written without a port, and an IPv6 address in brackets");
    }
    let name = lower.strip_prefix("*.").unwrap_or(&lower);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if !name.split('.').all(is_label) {
        return refuse("is neither a host name, e.g. shop.example.com, nor all below one, *.example.com");
    }
    Ok(if name.len() == lower.len() { Host::Name(name.into()) } else { Host::Below(name.into()) })
}

pub(super) fn path_prefix(field: &str, text: &str) -> Result<Box<str>, Invalid> {
    let refuse = |why: String| Err(Invalid::new(field, why));
    if matches!(text, "" | "/") {
        return Ok("/".into());
    }
    if text.len() > MAX_PATH_CHARS {
        return refuse(format!("is longer than {MAX_PATH_CHARS} characters"));
    }
    if !text.starts_with('/') {
        return refuse(format!("does not begin with a slash: write \"/{}\"", text.escape_debug()));
    }
    if let Some(bad) = text.chars().find(|c| !is_of_path(*c)) {
        return refuse(format!(
            "may hold what a path holds as it is sent, percent-encoded, not '{}'",
            bad.escape_debug()
        ));
    }
    if let Some(stem) = text.strip_suffix('/') {
        return refuse(format!(
            "ends with a slash: write \"{stem}\", which stands for all below \"{text}\", too"
        ));
    }
    if text.split('/').any(|segment| matches!(segment, "." | "..")) {
        return refuse("has a segment of dots, which clients resolve before they send it".to_owned());
    }
    Ok(text.into())
}

/// RFC 3986: the characters of a path, `%` for what is encoded, and the slash.
fn is_of_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%/".contains(c)
}

pub(super) fn methods(names: &[String]) -> Result<Methods, Invalid> {
    match names {
        [] => Ok(Methods::ALL),
        names => Methods::parse(names.iter().map(String::as_str)).map_err(|why| Invalid::new("methods", why)),
    }
}

pub(super) fn headers(wire: &[v1::HeaderMatch]) -> Result<Box<[Header]>, Invalid> {
    if wire.len() > MAX_HEADERS {
        return Err(Invalid::new(
            "headers",
            format!("are {}, at most {MAX_HEADERS} are allowed", wire.len()),
        ));
    }
    let mut check = Check::default();
    let read = |(index, wire): (usize, &v1::HeaderMatch)| {
        check.take(header(wire).map_err(|invalid| invalid.within(&format!("headers[{index}]"))))
    };
    let mut headers: Vec<Header> = wire.iter().enumerate().filter_map(read).collect();
    check.finish()?;
    headers.sort();
    if let Some(twice) = headers.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(Invalid::new("headers", format!("name {} twice", twice[0].name)));
    }
    Ok(headers.into())
}

fn header(wire: &v1::HeaderMatch) -> Result<Header, Invalid> {
    let name = wire.name.to_ascii_lowercase();
    let refuse = |field: &str, why: String| Err(Invalid::new(field, why));
    if name.len() > MAX_HEADER_NAME_CHARS || !is_token(&name) {
        return refuse("name", format!("is no name of a header of up to {MAX_HEADER_NAME_CHARS} characters"));
    }
    if name == "host" {
        return refuse("name", "is the host's, which a route has a field for".to_owned());
    }
    let value = wire.value.as_str();
    let is_inside = |c: char| (' '..='~').contains(&c);
    if value.len() > MAX_HEADER_VALUE_CHARS || !value.chars().all(is_inside) || value.trim() != value {
        let why =
            format!("is no text of up to {MAX_HEADER_VALUE_CHARS} ASCII characters without space around it");
        return refuse("value", why);
    }
    Ok(Header { name: name.into(), value: (!value.is_empty()).then(|| value.into()) })
}

pub(super) fn priority(number: i32) -> Result<u16, Invalid> {
    let priority = u16::try_from(number).ok().filter(|priority| *priority <= MAX_PRIORITY);
    priority.ok_or_else(|| Invalid::new("priority", format!("{number} is not in 0..={MAX_PRIORITY}")))
}

//! A request's target (RFC 9112 section 3.2), and hosts.

use std::ops::Range;

use http::Method;

use super::refusal::Defect;

/// What the target of a request names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The authority, where the target has one; it goes before the Host field.
    pub(super) authority: Option<Range<usize>>,
    /// Path and query, `*`, or nothing, and whether what is there lacks its slash.
    pub(super) path: Range<usize>,
    pub(super) replaced_by: Option<&'static str>,
    pub(super) lacks_slash: bool,
}

/// Takes a target apart. Ranges are of `target`.
pub(super) fn parse(method: &Method, target: &[u8]) -> Result<Target, Defect> {
    let whole = 0..target.len();
    let plain = |path| Target { authority: None, path, replaced_by: None, lacks_slash: false };
    if *method == Method::CONNECT {
        // With its port, in any case.
        let has_port = target.last().is_some_and(u8::is_ascii_digit) && target.contains(&b':');
        let is_valid = has_port && is_host(target);
        return if is_valid {
            Ok(Target { authority: Some(whole), ..plain(0..0) })
        } else {
            Err(Defect::Target)
        };
    }
    match target {
        _ if is_path(method, target) => Ok(plain(whole)),
        [b'/' | b'*', ..] => Err(Defect::Target),
        _ => absolute(method, target),
    }
}

/// Whether this is a target that names no host: a path with a query or without one, or `*` of OPTIONS.
pub(in crate::proxy) fn is_path(method: &Method, target: &[u8]) -> bool {
    match target {
        [b'/', ..] => is_path_and_query(target),
        target => target == b"*" && *method == Method::OPTIONS,
    }
}

/// `http://host/path?query`, as clients of forward proxies send it.
fn absolute(method: &Method, target: &[u8]) -> Result<Target, Defect> {
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
        .ok_or(Defect::Target)?;
    let rest = &target[scheme.len()..];
    let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(length);
    if authority.is_empty() || !is_host(authority) || !(path.is_empty() || is_path_and_query(path)) {
        return Err(Defect::Target);
    }
    let behind = scheme.len() + length;
    // RFC 9112 section 3.2.4 has OPTIONS without a path ask about the server itself.
    let empty = if *method == Method::OPTIONS { "*" } else { "/" };
    Ok(Target {
        authority: Some(scheme.len()..behind),
        path: behind..target.len(),
        replaced_by: path.is_empty().then_some(empty),
        lacks_slash: path.starts_with(b"?"),
    })
}

/// Whether these may be a path and a query, as they are told in HTTP/2, too: what is more than RFC 3986 allows is what
/// clients are known to send unescaped. Nothing that ends a target or a line, and no fragment.
fn is_path_and_query(target: &[u8]) -> bool {
    let query = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(query);
    let is_path = path.iter().all(
        |&byte| matches!(byte, 0x21 | 0x22 | 0x24..=0x3b | 0x3d | 0x40..=0x5f | 0x61..=0x7e | 0x80..=0xff),
    );
    let is_query =
        query.iter().all(|&byte| matches!(byte, 0x21 | 0x24..=0x3b | 0x3d | 0x3f..=0x7e | 0x80..=0xff));
    is_path && is_query && (target.is_ascii() || str::from_utf8(target).is_ok())
}

/// Whether this is a host with or without a port (RFC 3986 section 3.2), without a user. An empty one counts.
pub(in crate::proxy) fn is_host(host: &[u8]) -> bool {
    match host {
        [b'[', ..] => {
            let Some(end) = host.iter().position(|&byte| byte == b']') else { return false };
            let address = &host[1..end];
            let is_address = !address.is_empty()
                && address.contains(&b':')
                && address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
            is_address
                && match &host[end + 1..] {
                    [] => true,
                    [b':', port @ ..] => is_port(port),
                    _ => false,
                }
        }
        _ => match host.iter().position(|&byte| !IS_OF_NAME[usize::from(byte)]) {
            Some(end) => end > 0 && host[end] == b':' && is_port(&host[end + 1..]),
            None => true,
        },
    }
}

/// Which bytes a host's name may have. No percent: what is encoded could be read as another name.
const IS_OF_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+,;=";
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
};

fn is_port(port: &[u8]) -> bool {
    port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

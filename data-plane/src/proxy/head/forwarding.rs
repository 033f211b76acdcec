//! What replicas are told of the client, and whom this gateway believes about it.
//!
//! Whoever connects may claim anything. A peer that is no trusted proxy has its claims replaced by what this gateway sees;
//! a trusted one has them kept, and added to. What is not well-formed is nobody's claim.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::LazyLock,
};

use gateway_proto::{Networks, token::is_token_byte};

use super::{
    RequestHead,
    field_name::{Name, Names},
    fields::{Fields, ReadyLine, Span},
};
use crate::proxy::h1::{is_host, number};

/// Whom to believe, and what to say.
#[derive(Debug, Clone, Default)]
pub struct Forwarding {
    /// Peers whose word on the client holds.
    pub trusted: Networks,
    /// Whether replicas are told by `Forwarded`, too.
    pub writes_forwarded: bool,
}

/// What the gateway says of the client, and nobody else.
pub(in crate::proxy) const FORWARDING: Names = Names::of(&[
    Name::Forwarded,
    Name::XForwardedFor,
    Name::XForwardedHost,
    Name::XForwardedPort,
    Name::XForwardedPrefix,
    Name::XForwardedProto,
    Name::XRequestId,
]);

/// Entries of `X-Forwarded-For` that are looked at, from its end. No request passes so many proxies.
const MAX_HOPS: usize = 64;
/// An address with a port in its longest form.
const MAX_ENTRY: usize = 64;
/// Longest path prefix that is taken over.
const MAX_PREFIX: usize = 1024;

/// The peer that a request came from.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Peer<'a> {
    /// Its address as `X-Forwarded-For` has it.
    pub(in crate::proxy) ip: &'a str,
    /// How it spoke to this gateway.
    pub(in crate::proxy) scheme: &'static str,
    pub(in crate::proxy) is_trusted: bool,
}

/// The client for which trusted proxies have passed a request on: the last address in `X-Forwarded-For` that is none of
/// theirs, or the first of all if all are. `None` when the peer, which is trusted, named nobody.
///
/// What is no address ends the search: what stands before it was said by nobody who can be held to it.
pub(in crate::proxy) fn claimed_client(fields: &Fields, trusted: &Networks) -> Option<IpAddr> {
    let mut client = None;
    let entries = fields.list_from_the_end(Name::XForwardedFor);
    for address in entries.take(MAX_HOPS).map_while(parse_address) {
        client = Some(address);
        if !trusted.contains(address) {
            break;
        }
    }
    client
}

/// An IP address as proxies write it: `192.0.2.7`, `192.0.2.7:80`, `2001:db8::7`, `[2001:db8::7]` or `[2001:db8::7]:80`.
fn parse_address(entry: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(entry).ok().filter(|text| text.len() <= MAX_ENTRY)?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    // A zone means something on one host only.
    let with_port =
        || text.parse::<SocketAddr>().ok().filter(|_| !text.contains('%')).map(|socket| socket.ip());
    let address = text.parse().ok().or_else(bracketed).or_else(with_port);
    address.map(|address: IpAddr| address.to_canonical())
}

/// Has a head that is on its way to a replica say where it came from. `prefix` is what of its target's beginning replicas
/// do not see.
pub(in crate::proxy) fn tell(
    head: &mut RequestHead,
    peer: Peer<'_>,
    writes_forwarded: bool,
    prefix: Option<Span>,
) {
    let host = head.host_span();
    let fields = &mut head.fields;
    let said = if peer.is_trusted { Said::of(fields) } else { Said::default() };
    let chain = peer.is_trusted.then(|| chain(fields, Name::XForwardedFor, peer.ip)).flatten();
    let own = writes_forwarded.then(|| forwarded_element(peer, host.map(|host| fields.text(host))));
    let elements = own.map(|own| match peer.is_trusted {
        true => chain_of(fields, Name::Forwarded, &own),
        false => own,
    });
    if peer.is_trusted && elements.is_none() {
        // What others have said to each other passes.
        fields.remove(FORWARDING.without(Names::of(&[Name::Forwarded])));
    } else {
        fields.remove(FORWARDING);
    }
    match chain {
        Some(chain) => fields.append(Name::XForwardedFor, &chain),
        None => fields.append(Name::XForwardedFor, peer.ip.as_bytes()),
    }
    match said.proto {
        Some(proto) => fields.append_copy(Name::XForwardedProto, proto),
        None => fields.append_ready(&lines_of(peer.scheme).proto),
    }
    let host = said.host.or(host);
    if let Some(host) = host {
        fields.append_copy(Name::XForwardedHost, host);
    }
    match said.port.or_else(|| host.and_then(|host| port_of(fields, host))) {
        Some(port) => fields.append_copy(Name::XForwardedPort, port),
        None => {
            let lines = match said.proto {
                Some(proto) if fields.text(proto).eq_ignore_ascii_case(b"https") => &HTTPS,
                Some(_) => &HTTP,
                None => lines_of(peer.scheme),
            };
            fields.append_ready(&lines.port);
        }
    }
    match (said.prefix, prefix) {
        (Some(outer), Some(inner)) => {
            let whole = [fields.text(outer), fields.text(inner)].concat();
            fields.append(Name::XForwardedPrefix, &whole);
        }
        (Some(one), None) | (None, Some(one)) => fields.append_copy(Name::XForwardedPrefix, one),
        (None, None) => {}
    }
    if let Some(elements) = elements {
        fields.append(Name::Forwarded, &elements);
    }
}

/// What is said of how a peer spoke, where nobody says more of it.
struct SchemeLines {
    proto: ReadyLine,
    /// Of the scheme's own port.
    port: ReadyLine,
}

static HTTP: LazyLock<SchemeLines> = LazyLock::new(|| SchemeLines::new("http", "80"));
static HTTPS: LazyLock<SchemeLines> = LazyLock::new(|| SchemeLines::new("https", "443"));

impl SchemeLines {
    fn new(scheme: &str, port: &str) -> Self {
        Self {
            proto: ReadyLine::new(Name::XForwardedProto, scheme),
            port: ReadyLine::new(Name::XForwardedPort, port),
        }
    }
}

fn lines_of(scheme: &str) -> &'static SchemeLines {
    if scheme == "https" { &HTTPS } else { &HTTP }
}

/// What a trusted peer says, where it is well-formed and said once.
#[derive(Default)]
struct Said {
    proto: Option<Span>,
    host: Option<Span>,
    port: Option<Span>,
    prefix: Option<Span>,
}

impl Said {
    fn of(fields: &Fields) -> Self {
        let once = |name, is_valid: fn(&[u8]) -> bool| {
            let is_said_once = fields.get_all(name).nth(1).is_none();
            fields.span(name).filter(|value| is_said_once && is_valid(fields.text(*value)))
        };
        Self {
            proto: once(Name::XForwardedProto, is_scheme),
            host: once(Name::XForwardedHost, |host| !host.is_empty() && is_host(host)),
            port: once(Name::XForwardedPort, is_port),
            prefix: once(Name::XForwardedPrefix, is_prefix),
        }
    }
}

fn is_scheme(scheme: &[u8]) -> bool {
    scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https")
}

fn is_port(port: &[u8]) -> bool {
    matches!(number(port), Some(1..=65535)) && port[0] != b'0'
}

/// Whether this is the beginning of a path, and of nothing that a browser takes for another host.
fn is_prefix(prefix: &[u8]) -> bool {
    let is_of_path = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:@".contains(byte);
    prefix.len() <= MAX_PREFIX
        && prefix.len() > 1
        && prefix[0] == b'/'
        && prefix[1] != b'/'
        && prefix.last() != Some(&b'/')
        && prefix.iter().all(is_of_path)
}

/// The port in a host that is known to be valid.
fn port_of(fields: &Fields, host: Span) -> Option<Span> {
    let text = fields.text(host);
    let colon = text.iter().rposition(|byte| matches!(byte, b':' | b']'))?;
    let range = host.range();
    (text[colon] == b':' && is_port(&text[colon + 1..]))
        .then(|| Span::new(range.start + colon + 1..range.end))
}

/// What was said in this list before, and one more; `None` if nothing was.
fn chain(fields: &Fields, name: Name, own: &str) -> Option<Vec<u8>> {
    fields.contains(name).then(|| chain_of(fields, name, own.as_bytes()))
}

fn chain_of(fields: &Fields, name: Name, own: &[u8]) -> Vec<u8> {
    let mut chain = Vec::new();
    for before in fields.get_all(name).map(<[u8]>::trim_ascii).filter(|value| !value.is_empty()) {
        chain.extend_from_slice(before);
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(own);
    chain
}

/// One hop as `Forwarded` has it (RFC 7239 sections 4 and 6).
fn forwarded_element(peer: Peer<'_>, host: Option<&[u8]>) -> Vec<u8> {
    let mut element = b"for=".to_vec();
    match peer.ip.contains(':') {
        true => element.extend_from_slice(format!("\"[{}]\"", peer.ip).as_bytes()),
        false => element.extend_from_slice(peer.ip.as_bytes()),
    }
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        element.extend_from_slice(b";host=");
        push_value(&mut element, host);
    }
    element.extend_from_slice(b";proto=");
    element.extend_from_slice(peer.scheme.as_bytes());
    element
}

/// A token as it is, anything else in quotes.
fn push_value(out: &mut Vec<u8>, value: &[u8]) {
    if value.iter().all(|&byte| is_token_byte(byte)) {
        out.extend_from_slice(value);
        return;
    }
    out.push(b'"');
    for &byte in value {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests;

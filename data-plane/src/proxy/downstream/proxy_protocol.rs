//! The PROXY protocol, versions 1 and 2: a load balancer's word, in front of a connection, on whose connection it is.
//!
//! Pure: bytes in, verdicts out. It is strict, because what is taken from here is believed: a header that is not exactly
//! one ends its connection. Nothing is read beyond the header, so TLS or HTTP begin where it ends.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What version 2 begins with. No HTTP request and no TLS handshake does.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What version 1 begins with.
const V1: &[u8; 6] = b"PROXY ";
/// Longest line of version 1, with its end.
const MAX_V1: usize = 107;
/// Bytes in front of the addresses of version 2.
const V2_HEAD: usize = 16;
/// Longest header of version 2 that is taken, with its TLVs, which may hold certificates.
pub(in crate::proxy) const MAX_HEADER: usize = 4096;

/// What bytes begin with, as far as they tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Beginning {
    /// A whole header, of so many bytes. It names the other end of the connection that the load balancer accepted, unless
    /// that speaks for itself, such as when it checks whether this gateway is alive, or cannot tell.
    Header { length: usize, source: Option<SocketAddr> },
    /// A part of a header: it is certain that it is one.
    Part,
    /// Too little to tell a header from something else.
    Open,
    /// Something else.
    None,
}

/// Why a header is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::proxy) enum Defect {
    #[error("the line of a PROXY header does not end within 107 bytes")]
    EndlessLine,
    #[error("the line of a PROXY header is not one of version 1")]
    Line,
    #[error("the version of a PROXY header is unknown")]
    Version,
    #[error("the command of a PROXY header is unknown")]
    Command,
    #[error("a PROXY header is longer than 4 KiB")]
    TooLong,
    #[error("a PROXY header is too short for its addresses")]
    Addresses,
}

/// Looks for a header at the beginning of `bytes`.
///
/// # Errors
/// When there is one, and it is broken.
pub(in crate::proxy) fn look(bytes: &[u8]) -> Result<Beginning, Defect> {
    if bytes.starts_with(V1) {
        return look_v1(bytes);
    }
    if bytes.starts_with(SIGNATURE) {
        return look_v2(bytes);
    }
    let may_be = V1.starts_with(bytes) || SIGNATURE.starts_with(bytes);
    Ok(if may_be { Beginning::Open } else { Beginning::None })
}

fn look_v1(bytes: &[u8]) -> Result<Beginning, Defect> {
    let within = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = within.windows(2).position(|two| two == b"\r\n") else {
        return if within.len() == MAX_V1 { Err(Defect::EndlessLine) } else { Ok(Beginning::Part) };
    };
    let source = parse_line(&bytes[V1.len()..end]).ok_or(Defect::Line)?;
    Ok(Beginning::Header { length: end + 2, source })
}

/// What stands behind `PROXY `: `TCP4 192.0.2.7 192.0.2.1 4711 443`, or `UNKNOWN` and whatever follows it.
fn parse_line(line: &[u8]) -> Option<Option<SocketAddr>> {
    let text = str::from_utf8(line).ok()?;
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut parts = text.split(' ');
    let family = parts.next()?;
    let mut address = || -> Option<IpAddr> {
        let text = parts.next()?;
        match family {
            "TCP4" => text.parse().ok().map(IpAddr::V4),
            "TCP6" => text.parse().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, _destination) = (address()?, address()?);
    let mut port = || {
        let text = parts.next()?;
        let is_plain =
            text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| is_plain)
    };
    let (source_port, _destination_port) = (port()?, port()?);
    parts.next().is_none().then_some(Some(SocketAddr::new(source, source_port)))
}

fn look_v2(bytes: &[u8]) -> Result<Beginning, Defect> {
    // Each byte is judged as soon as it is there.
    if bytes.get(12).is_some_and(|version| version >> 4 != 2) {
        return Err(Defect::Version);
    }
    if bytes.get(12).is_some_and(|command| command & 15 > 1) {
        return Err(Defect::Command);
    }
    let Some(head) = bytes.get(..V2_HEAD) else { return Ok(Beginning::Part) };
    let length = V2_HEAD + usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > MAX_HEADER {
        return Err(Defect::TooLong);
    }
    let is_local = head[12] & 15 == 0;
    let Some(block) = bytes.get(V2_HEAD..length) else { return Ok(Beginning::Part) };
    // Of what is no TCP over IP, such as a Unix socket, there is nothing to be told that a replica would understand.
    let source = match head[13] {
        _ if is_local => None,
        0x11 => Some(parse_block::<4>(block, |address| Ipv4Addr::from(address).into())?),
        0x21 => Some(parse_block::<16>(block, |address| Ipv6Addr::from(address).into())?),
        _ => None,
    };
    Ok(Beginning::Header { length, source })
}

/// The first of two addresses of `N` bytes, with the first of the two ports behind them. The TLVs behind those are passed
/// over.
fn parse_block<const N: usize>(
    block: &[u8],
    address: impl Fn([u8; N]) -> IpAddr,
) -> Result<SocketAddr, Defect> {
    let (ends, _tlvs) = block.split_at_checked(2 * N + 4).ok_or(Defect::Addresses)?;
    let source = ends.first_chunk::<N>().ok_or(Defect::Addresses)?;
    let port = u16::from_be_bytes([ends[2 * N], ends[2 * N + 1]]);
    Ok(SocketAddr::new(address(*source), port))
}

#[cfg(test)]
pub(in crate::proxy) mod fuzz;
#[cfg(test)]
mod tests;

//! Names by which a server may be asked. A web page of anybody's can have its own name lead to any address (DNS rebinding), and is
//! then of one origin with what listens there; what it cannot do is ask for another name than its own.

use std::net::IpAddr;

/// Whether a host, without its port, is one that no owner of a domain could have made to lead here: an address, with brackets or
/// without; a name that never leaves this machine (RFC 6761, section 6.3); or one without a dot. Capitals and a last dot are a
/// matter of taste.
pub fn is_nobody_elses(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
    let is_name = !host.is_empty() && !host.contains('.');
    address.parse::<IpAddr>().is_ok() || is_name || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_without_an_owner_are_nobody_elses() {
        for host in ["127.0.0.1", "[::1]", "::1", "localhost", "LOCALHOST.", "a.localhost", "gateway"] {
            assert!(is_nobody_elses(host), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "a.local", "1.2", "", "."]
        {
            assert!(!is_nobody_elses(host), "{host}");
        }
    }
}

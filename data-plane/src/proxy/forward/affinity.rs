//! What of a request decides which replica has it, where the policy goes by keys.

use gateway_proto::policy::{Algorithm, Balancing, HashBy};

use crate::{
    proxy::head::{field_name::Name, fields::Fields},
    routing::balancing::hash,
};

/// Whether requests are shared out by keys.
pub(in crate::proxy) fn has_key(balancing: &Balancing) -> bool {
    balancing.algorithm == Algorithm::ConsistentHash
}

/// The hash of a request's key; `None` when the policy goes by none, and when the request lacks it.
///
/// `client` is the address of its connection, written as one client's always is. Of a header that is repeated, the first value counts, and so does the first cookie of a name.
pub(in crate::proxy) fn key(balancing: &Balancing, fields: &Fields, client: &str) -> Option<u64> {
    if !has_key(balancing) {
        return None;
    }
    match &balancing.hash_by {
        HashBy::Address => Some(hash(client.as_bytes())),
        HashBy::Header(name) => fields.get_all_named(name.as_str()).next().map(hash),
        HashBy::Cookie(name) => {
            let cookies = fields.get_all(Name::Cookie).flat_map(|line| line.split(|&byte| byte == b';'));
            cookies.filter_map(|cookie| value_of(cookie, name.as_str().as_bytes())).next().map(hash)
        }
    }
}

/// The value of one `name=value` of a Cookie line (RFC 6265 section 4.2.1), if it has that name.
fn value_of<'a>(cookie: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    cookie.trim_ascii().strip_prefix(name)?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "10.0.0.7";

    fn by(hash_by: &str) -> Balancing {
        Balancing {
            algorithm: Algorithm::ConsistentHash,
            hash_by: hash_by.parse().unwrap(),
            ..Balancing::default()
        }
    }

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in lines {
            fields.append_other(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    #[test]
    fn a_policy_that_goes_by_no_keys_looks_at_none() {
        let balancing = Balancing { algorithm: Algorithm::LeastRequest, ..by("address") };
        assert_eq!(key(&balancing, &Fields::default(), CLIENT), None);
    }

    #[test]
    fn a_client_is_known_by_its_address() {
        let by = by("address");
        assert_eq!(key(&by, &Fields::default(), CLIENT), Some(hash(b"10.0.0.7")));
    }

    #[test]
    fn a_header_is_found_whatever_its_case_and_a_request_without_it_has_no_key() {
        let fields = fields(&[("X-USER", "alice"), ("x-user", "bob")]);
        assert_eq!(key(&by("header:X-User"), &fields, CLIENT), Some(hash(b"alice")));
        assert_eq!(key(&by("header:x-tenant"), &fields, CLIENT), None);
    }

    #[test]
    fn a_cookie_is_found_among_others_by_its_exact_name() {
        let fields = fields(&[("Cookie", "xsid=1; sid2=2;SID=3"), ("cookie", "a=b;  sid=s7=x ; sid=other")]);
        assert_eq!(key(&by("cookie:sid"), &fields, CLIENT), Some(hash(b"s7=x")));
        assert_eq!(key(&by("cookie:SID"), &fields, CLIENT), Some(hash(b"3")));
        assert_eq!(key(&by("cookie:si"), &fields, CLIENT), None);
    }
}

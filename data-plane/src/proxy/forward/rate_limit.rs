//! Whether a request is one more than its service's policy lets through. It is decided before a replica is asked, and counts
//! against none.

use gateway_proto::policy::RateKey;

use crate::{
    proxy::{errors::GatewayError, head::RequestHead, worker::addresses::origin},
    routing::Tick,
    table::{Counted, Service},
};

/// Why a request is refused that comes `now`, if it is one too many. `client` is the address of its client.
///
/// Of a header that is repeated, the first value counts; of `host`, the one that the request names, which HTTP/2 has in no field of
/// that name. Requests without it are counted together, too: else leaving it out would be a way around the limit.
pub(in crate::proxy) fn exceeded(
    service: &Service,
    head: &RequestHead,
    client: &str,
    now: Tick,
) -> Option<GatewayError> {
    let counted = |key: &RateKey| match key {
        RateKey::Service => Counted::Service,
        RateKey::Address => match client.parse() {
            Ok(address) => Counted::Address(origin(address)),
            Err(_) => Counted::Value(client.as_bytes()),
        },
        RateKey::Header(name) if name.as_str() == "host" => {
            Counted::Value(head.host().unwrap_or_default().as_bytes())
        }
        RateKey::Header(name) => {
            Counted::Value(head.fields.get_all_named(name.as_str()).next().unwrap_or_default())
        }
    };
    service.meter(counted, now).err().map(|limited| GatewayError::RateLimited(Box::new(limited)))
}

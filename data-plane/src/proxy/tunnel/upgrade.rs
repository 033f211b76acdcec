//! Switching to another protocol: what a client asks for, what a replica is asked for, and whether its answer does it.
//!
//! Two ways lead here: `Upgrade` in HTTP/1.1 (RFC 9110 section 7.8), and extended CONNECT in HTTP/2 (RFC 8441), which is made
//! an upgrade of HTTP/1.1 for the replica (and an extended CONNECT again where that speaks HTTP/2). In both, the service's
//! policy says which protocols may be switched to.

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use gateway_proto::policy::RequestRules;
use http::{StatusCode, Version};

use crate::proxy::{
    errors::GatewayError,
    h1::Length,
    head::{RequestHead, ResponseHead, field_name::Name, fields::Fields},
};

/// What RFC 6455 section 1.3 has servers append to a key.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const WEBSOCKET: &[u8] = b"websocket";
const KEY: &[u8] = b"sec-websocket-key";
const ACCEPT: &[u8] = b"sec-websocket-accept";

/// The protocols that a request asks to switch to, of those that its service's policy has.
#[derive(Debug)]
pub(in crate::proxy) struct Upgrade {
    /// As `Upgrade` has them.
    protocols: Vec<u8>,
    /// Whether the client speaks HTTP/2, in which 200 stands for the switch.
    is_connect: bool,
    /// The key of a WebSocket handshake that is this gateway's own: clients in HTTP/2 have none.
    key: Option<String>,
}

impl Upgrade {
    /// What a client's request asks for, if it does. A request with a body asks for nothing, and neither does one in HTTP/1.0:
    /// it goes on as any other, for nobody is bound to switch.
    ///
    /// # Errors
    /// When a client in HTTP/2, which can ask for nothing else with such a request, asks for a protocol that the policy does
    /// not have.
    pub(in crate::proxy) fn asked(
        head: &RequestHead,
        length: Length,
        rules: &RequestRules,
        random: impl FnOnce() -> u128,
    ) -> Result<Option<Self>, GatewayError> {
        if let Some(protocol) = head.protocol() {
            if !rules.upgrades.has(protocol) {
                return Err(GatewayError::ProtocolRefused { allowed: rules.upgrades.to_string() });
            }
            let is_websocket = protocol.eq_ignore_ascii_case(WEBSOCKET);
            let key = is_websocket.then(|| BASE64.encode(random().to_be_bytes()));
            return Ok(Some(Self { protocols: protocol.to_vec(), is_connect: true, key }));
        }
        let fields = &head.fields;
        if !fields.contains(Name::Upgrade) || head.version != Version::HTTP_11 || has_body(length) {
            return Ok(None);
        }
        if !is_named_by_connection(fields) {
            return Ok(None);
        }
        let allowed: Vec<_> =
            fields.list(Name::Upgrade).filter(|protocol| rules.upgrades.has(protocol)).collect();
        let protocols = allowed.join(&b", "[..]);
        Ok((!allowed.is_empty()).then_some(Self { protocols, is_connect: false, key: None }))
    }

    /// Has a request, from which all that concerns one connection only is gone, ask a replica.
    pub(in crate::proxy) fn ask(&self, fields: &mut Fields) {
        fields.append(Name::Connection, b"upgrade");
        fields.append(Name::Upgrade, &self.protocols);
        if let Some(key) = &self.key {
            fields.retain(|name| !name.eq_ignore_ascii_case(KEY));
            fields.append_other(KEY, key.as_bytes());
        }
    }

    /// Whether a replica's 101, which names a protocol that was asked for, proves that it knows it: where the handshake is
    /// this gateway's own, nobody else looks.
    pub(in crate::proxy) fn is_accepted_by(&self, head: &ResponseHead) -> bool {
        let Some(key) = &self.key else { return true };
        let mut accepts = head.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(ACCEPT));
        let accept = accepts.next().map(|(_, value)| value);
        accept == Some(accept_of(key).as_bytes()) && accepts.next().is_none()
    }

    /// Makes a replica's 101, prepared as any response, one for the client. `protocol` is the one switched to.
    pub(in crate::proxy) fn tell(&self, head: &mut ResponseHead, protocol: &[u8]) {
        if self.is_connect {
            let fields = std::mem::take(&mut head.fields);
            *head = ResponseHead::new(StatusCode::OK, fields);
            head.fields.retain(|name| !name.eq_ignore_ascii_case(ACCEPT));
        } else {
            require(&mut head.fields, protocol);
        }
    }

    /// Whether this status, for an answer that switches nothing, would tell the client that there is a tunnel.
    pub(in crate::proxy) fn is_faked_by(&self, status: StatusCode) -> bool {
        self.is_connect && status.is_success()
    }
}

/// The protocols that a replica's 426 asks for (RFC 9110 section 15.5.22), of those that the service's policy lets its clients
/// switch to: what else it has to say of its own connection is not its client's.
pub(in crate::proxy) fn required(fields: &Fields, rules: &RequestRules) -> Option<Vec<u8>> {
    let allowed: Vec<_> =
        fields.list(Name::Upgrade).filter(|protocol| rules.upgrades.has(protocol)).collect();
    (!allowed.is_empty()).then(|| allowed.join(&b", "[..]))
}

/// Has an answer ask for them.
pub(in crate::proxy) fn require(fields: &mut Fields, protocols: &[u8]) {
    fields.append(Name::Connection, b"upgrade");
    fields.append(Name::Upgrade, protocols);
}

/// Whether an `Upgrade` field is meant for who receives it (RFC 9110 section 7.8).
pub(in crate::proxy) fn is_named_by_connection(fields: &Fields) -> bool {
    fields.list(Name::Connection).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

fn has_body(length: Length) -> bool {
    !matches!(length, Length::Empty | Length::Exact(0))
}

/// What a server that speaks the protocol answers to this key.
pub(in crate::proxy) fn accept_of(key: &str) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(ACCEPT_SUFFIX);
    BASE64.encode(hash.finish())
}

#[cfg(test)]
mod tests {
    use gateway_proto::policy::Upgrades;
    use http::Method;

    use super::*;

    fn rules(protocols: &[&str]) -> RequestRules {
        let upgrades = Upgrades::parse(protocols.iter().copied()).unwrap();
        RequestRules { upgrades, ..RequestRules::default() }
    }

    fn head(version: Version, lines: &[(&str, &str)], protocol: Option<&str>) -> RequestHead {
        let mut fields = Fields::default();
        for (name, value) in lines {
            fields.append_other(name.as_bytes(), value.as_bytes());
        }
        let target = fields.store(b"/");
        let protocol = protocol.map(|protocol| fields.store(protocol.as_bytes()));
        RequestHead::new(Method::GET, version, target, None, fields).with_protocol(protocol)
    }

    fn asked(version: Version, lines: &[(&str, &str)], length: Length, allowed: &[&str]) -> Option<String> {
        let upgrade = Upgrade::asked(&head(version, lines, None), length, &rules(allowed), || 0).unwrap();
        upgrade.map(|upgrade| String::from_utf8(upgrade.protocols).unwrap())
    }

    #[test]
    fn only_a_bodiless_request_of_http_1_1_for_a_protocol_of_the_policy_asks_for_a_switch() {
        let (old, new) = (Version::HTTP_10, Version::HTTP_11);
        let upgrade = [("Connection", "keep-alive, Upgrade"), ("Upgrade", "WebSocket")];
        let ws = &["websocket"][..];
        assert_eq!(asked(new, &upgrade, Length::Empty, ws).as_deref(), Some("WebSocket"));
        assert_eq!(asked(new, &upgrade, Length::Exact(0), ws).as_deref(), Some("WebSocket"));
        assert_eq!(asked(old, &upgrade, Length::Empty, ws), None);
        assert_eq!(asked(Version::HTTP_2, &upgrade, Length::Empty, ws), None);
        assert_eq!(asked(new, &upgrade, Length::Exact(1), ws), None);
        assert_eq!(asked(new, &upgrade, Length::Chunked, ws), None);
        assert_eq!(asked(new, &upgrade, Length::Empty, &["none"]), None);
        assert_eq!(asked(new, &upgrade[1..], Length::Empty, ws), None, "Connection does not name it");
        assert_eq!(asked(new, &upgrade[..1], Length::Empty, ws), None);
        let several = [("connection", "upgrade"), ("upgrade", "h2c, websocket"), ("upgrade", "TLS/1.0,x/2")];
        assert_eq!(asked(new, &several, Length::Empty, ws).as_deref(), Some("websocket"));
        assert_eq!(
            asked(new, &several, Length::Empty, &["websocket", "x/2"]).as_deref(),
            Some("websocket, x/2")
        );
        assert_eq!(asked(new, &several, Length::Empty, &["x"]), None);
    }

    #[test]
    fn an_extended_connect_is_refused_or_asked_for_with_a_key_of_the_gateways_own() {
        let connect = |protocol, allowed: &[&str]| {
            let lines = [("Sec-WebSocket-Key", "theirs"), ("sec-websocket-version", "13")];
            let head = head(Version::HTTP_2, &lines, Some(protocol));
            Upgrade::asked(&head, Length::Empty, &rules(allowed), || 7)
                .map(|upgrade| (head, upgrade.unwrap()))
        };
        let refused = connect("connect-udp", &["websocket"]).unwrap_err();
        assert_eq!(refused, GatewayError::ProtocolRefused { allowed: "websocket".into() });
        assert!(connect("connect-udp", &["connect-udp"]).unwrap().1.key.is_none());

        let (mut head, upgrade) = connect("websocket", &["websocket"]).unwrap();
        upgrade.ask(&mut head.fields);
        let keys: Vec<_> = head.fields.get_all_named("sec-websocket-key").collect();
        assert_eq!(keys, [b"AAAAAAAAAAAAAAAAAAAABw=="]);
        assert_eq!(head.fields.get(Name::Upgrade), Some(WEBSOCKET));
        assert_eq!(head.fields.get(Name::Connection), Some(&b"upgrade"[..]));
    }

    #[test]
    fn a_switch_is_taken_for_one_only_with_the_answer_to_the_key() {
        // The example of RFC 6455 section 1.3.
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let key = Some("dGhlIHNhbXBsZSBub25jZQ==".to_owned());
        let upgrade = Upgrade { protocols: WEBSOCKET.to_vec(), is_connect: true, key };
        let answer = |accepts: &[&str]| {
            let mut fields = Fields::default();
            accepts.iter().for_each(|accept| fields.append_other(b"Sec-WebSocket-Accept", accept.as_bytes()));
            ResponseHead::new(StatusCode::SWITCHING_PROTOCOLS, fields)
        };
        let right = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        let mut accepted = answer(&[right]);
        assert!(upgrade.is_accepted_by(&accepted));
        for wrong in [&[][..], &["s3pPLMBiTxaQ9kYGzzhZRbK+xO0="], &[right, right], &[""]] {
            assert!(!upgrade.is_accepted_by(&answer(wrong)), "{wrong:?}");
        }
        upgrade.tell(&mut accepted, b"websocket");
        assert_eq!((accepted.status, accepted.fields.count()), (StatusCode::OK, 0));
    }
}

//! Who is believed about the client.

use clap::builder::FalseyValueParser;
use gateway_runtime::Failure;

use crate::proxy::{Forwarding, Networks, ProxyHeaders};

/// Flags on what peers say of their clients, and replicas are told.
#[derive(Debug, Clone, clap::Args)]
pub struct ForwardingArgs {
    /// Proxies in front of this one, as addresses or networks such as 10.0.0.0/8,2001:db8::/32: what they say of the client
    /// by X-Forwarded-For, -Proto, -Host, -Port and -Prefix, Forwarded and X-Request-Id holds. Nobody else's does
    #[arg(long, env = "GW_TRUSTED_PROXIES", value_delimiter = ',', value_name = "CIDR,…")]
    pub trusted_proxies: Vec<String>,
    /// Whether connections begin with a PROXY header, version 1 or 2, in front of TLS or HTTP
    #[arg(long, env = "GW_PROXY_PROTOCOL", default_value = "off", value_name = "MODE")]
    pub proxy_protocol: ProxyProtocol,
    /// Peers that may send a PROXY header, as addresses or networks; needed unless --proxy-protocol is off
    #[arg(long, env = "GW_PROXY_PROTOCOL_FROM", value_delimiter = ',', value_name = "CIDR,…")]
    pub proxy_protocol_from: Vec<String>,
    /// Tell replicas of the client by Forwarded, too, beside X-Forwarded-*
    #[arg(long, env = "GW_FORWARDED", value_parser = FalseyValueParser::new())]
    pub forwarded: bool,
}

/// Whether connections begin with a PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ProxyProtocol {
    /// None does
    #[default]
    Off,
    /// Those of the peers in --proxy-protocol-from may
    Optional,
    /// All do; any other connection is closed
    Required,
}

impl ForwardingArgs {
    pub(super) fn proxy_headers(&self) -> Result<Option<ProxyHeaders>, Failure> {
        let from = networks("--proxy-protocol-from", &self.proxy_protocol_from)?;
        let is_required = match (self.proxy_protocol, from.is_empty()) {
            (ProxyProtocol::Off, true) => return Ok(None),
            (ProxyProtocol::Off, false) => {
                return Err(Failure::usage(
                    "--proxy-protocol-from needs --proxy-protocol optional or required",
                ));
            }
            (_, true) => {
                return Err(Failure::usage(
                    "--proxy-protocol needs --proxy-protocol-from: whoever may send a PROXY header says who the client is",
                ));
            }
            (mode, false) => mode == ProxyProtocol::Required,
        };
        Ok(Some(ProxyHeaders::new(from, is_required)))
    }

    pub(super) fn validate(&self) -> Result<Forwarding, Failure> {
        let trusted = networks("--trusted-proxies", &self.trusted_proxies)?;
        Ok(Forwarding { trusted, writes_forwarded: self.forwarded })
    }
}

/// Reads the networks of a flag.
fn networks(flag: &str, texts: &[String]) -> Result<Networks, Failure> {
    // An empty variable is none.
    let texts: Vec<&str> = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
    if texts.len() > Networks::MAX {
        let (count, max) = (texts.len(), Networks::MAX);
        return Err(Failure::usage(format!("{flag} names {count} networks, at most {max} are allowed")));
    }
    Networks::parse(texts).map_err(|(text, why)| Failure::usage(format!("{flag}: {text:?} {why}")))
}

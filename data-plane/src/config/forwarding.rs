//! Who is believed about the client.

use gateway_runtime::Failure;

use clap::builder::FalseyValueParser;

use crate::proxy::{Forwarding, Networks};

/// Flags on what peers say of their clients, and replicas are told.
#[derive(Debug, Clone, clap::Args)]
pub struct ForwardingArgs {
    /// Proxies in front of this one, as addresses or networks such as 10.0.0.0/8,2001:db8::/32: what they say of the client
    /// by X-Forwarded-For, -Proto, -Host, -Port and -Prefix, Forwarded and X-Request-Id holds. Nobody else's does
    #[arg(long, env = "GW_TRUSTED_PROXIES", value_delimiter = ',', value_name = "CIDR,…")]
    pub trusted_proxies: Vec<String>,
    /// Tell replicas of the client by Forwarded, too, beside X-Forwarded-*
    #[arg(long, env = "GW_FORWARDED", value_parser = FalseyValueParser::new())]
    pub forwarded: bool,
}

impl ForwardingArgs {
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

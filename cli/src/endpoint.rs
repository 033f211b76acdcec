//! Where the control plane is, and who said so.

use clap::{ArgMatches, parser::ValueSource};
use tonic::transport::Uri;

use crate::error::{Error, Exit};

/// Used when nobody says otherwise: where `gwctl dev` and `gw-control-plane` listen by default.
pub(crate) const DEFAULT: &str = "http://127.0.0.1:7400";

/// Who chose the endpoint: an unreachable one is explained by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag,
    Environment,
    Default,
}

impl Origin {
    /// Where the value of `--endpoint` came from.
    pub(crate) fn of(matches: &ArgMatches) -> Self {
        match matches.value_source("endpoint") {
            Some(ValueSource::CommandLine) => Self::Flag,
            Some(ValueSource::EnvVariable) => Self::Environment,
            _ => Self::Default,
        }
    }

    /// A sentence for people.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Flag => "the endpoint comes from --endpoint",
            Self::Environment => "the endpoint comes from GWCTL_ENDPOINT",
            Self::Default => {
                "the endpoint is the built-in default: neither --endpoint nor GWCTL_ENDPOINT is set"
            }
        }
    }
}

/// A control plane's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) uri: Uri,
    pub(crate) origin: Origin,
}

impl Endpoint {
    /// Parses `http://HOST:PORT`.
    ///
    /// # Errors
    /// A usage error that says what is wrong with the URL and where it came from.
    pub(crate) fn parse(text: &str, origin: Origin) -> Result<Self, Error> {
        let refuse = |why: &str| {
            Err(Error::new(Exit::Usage, format!("\"{text}\" is no control plane endpoint"))
                .because(why)
                .because(origin.describe())
                .hint(format!("write http://HOST:PORT, for example {DEFAULT}")))
        };
        let Ok(uri) = text.parse::<Uri>() else { return refuse("it is not a URL") };
        match uri.scheme_str() {
            Some("http") if !matches!(uri.path(), "" | "/") => refuse("it has a path"),
            Some("http") => Ok(Self { uri, origin }),
            Some("https") => refuse("https is not available in this version"),
            Some(_) => refuse("its scheme is not http"),
            None => refuse("it has no scheme"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_scheme_host_and_port_is_taken() {
        for text in [DEFAULT, "http://[::1]:7400", "http://control.example:80/"] {
            assert!(Endpoint::parse(text, Origin::Flag).is_ok(), "{text}");
        }
    }

    #[test]
    fn anything_else_is_a_usage_error_that_says_where_it_came_from() {
        for (text, why) in [
            ("127.0.0.1:7400", "it has no scheme"),
            ("https://127.0.0.1:7400", "https is not available in this version"),
            ("ftp://h:1", "its scheme is not http"),
            ("http://h:1/api", "it has a path"),
            ("http://a b", "it is not a URL"),
        ] {
            let error = Endpoint::parse(text, Origin::Environment).unwrap_err();
            assert_eq!(error.exit, Exit::Usage);
            assert_eq!(error.details, [why, "the endpoint comes from GWCTL_ENDPOINT"], "{text}");
        }
    }
}

//! Where the control plane is, and who said so.

use std::fmt;

use clap::{ArgMatches, parser::ValueSource};
use gateway_proto::{ControlPlaneUrl, without_user};

use crate::{
    error::{Error, Exit},
    link::Places,
};

/// Used when nobody says otherwise: where `gwctl dev` and `gw-control-plane` listen by default.
pub(crate) const DEFAULT: &str = "http://127.0.0.1:7400";

/// Who chose the endpoint: an unreachable one is explained by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag,
    /// An argument that is a store or a control plane.
    Argument,
    Environment,
    /// The file of contexts.
    Context,
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
            Self::Argument => "the endpoint is what this command was given",
            Self::Environment => "the endpoint comes from GWCTL_ENDPOINT",
            Self::Context => "the endpoint comes from the context in use: gwctl config view --show-origin",
            Self::Default => {
                "the endpoint is the built-in default: neither --endpoint, GWCTL_ENDPOINT nor a context is set"
            }
        }
    }
}

/// Control planes one may ask.
const MAX_PLACES: usize = 16;

/// The URL of a control plane, or those of several of one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) places: Places,
    pub(crate) origin: Origin,
}

impl Endpoint {
    /// Parses `http://HOST:PORT`, `https://HOST:PORT` or `unix:///PATH`, or several of them between commas.
    ///
    /// # Errors
    /// A usage error that says what is wrong with the URL and where it came from.
    pub(crate) fn parse(text: &str, origin: Origin) -> Result<Self, Error> {
        let refused = |text: &str, why: &str| {
            Error::new(Exit::Usage, format!("the endpoint \"{}\" {why}", without_user(text)))
                .because(origin.describe())
                .hint(format!("for example {DEFAULT}"))
        };
        let urls = text.split(',').map(str::trim);
        let urls = urls.map(|text| ControlPlaneUrl::parse(text).map_err(|why| refused(text, &why)));
        let urls = urls.collect::<Result<Vec<_>, _>>()?;
        if urls.len() > MAX_PLACES {
            return Err(refused(
                text,
                &format!("names {} control planes, {MAX_PLACES} are allowed", urls.len()),
            ));
        }
        Ok(Self { places: Places::new(urls), origin })
    }

    /// The URL in use.
    pub(crate) fn url(&self) -> &ControlPlaneUrl {
        self.places.current()
    }

    /// Whether there are several.
    pub(crate) fn is_several(&self) -> bool {
        self.places.urls().len() > 1
    }
}

impl Endpoint {
    /// Whether it, and each of several, is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.places.urls().iter().all(ControlPlaneUrl::is_local)
    }

    /// Whether nothing is encrypted on the way to it, or to one of several.
    pub(crate) fn is_plain(&self) -> bool {
        self.places.urls().iter().any(|url| !url.is_encrypted())
    }

    /// Whether a token that it, or one of several, is shown can be read by all between.
    pub(crate) fn is_overheard(&self) -> bool {
        self.places.urls().iter().any(ControlPlaneUrl::is_overheard)
    }
}

/// The one in use.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_shown_without_a_path() {
        let endpoint = Endpoint::parse("http://control.example:80/", Origin::Flag).unwrap();
        assert_eq!(endpoint.to_string(), "http://control.example:80");
    }

    #[test]
    fn several_are_read_between_commas_and_the_one_in_use_is_shown() {
        let endpoint = Endpoint::parse("http://a:1, https://b:2", Origin::Flag).unwrap();
        assert_eq!((endpoint.to_string().as_str(), endpoint.is_several()), ("http://a:1", true));
        assert!(endpoint.is_plain() && !endpoint.is_local() && endpoint.is_overheard());
        assert!(Endpoint::parse("http://127.0.0.1:1,http://[::1]:2", Origin::Flag).unwrap().is_local());
        let mixed = Endpoint::parse("http://127.0.0.1:1,https://b:2", Origin::Flag).unwrap();
        assert!(mixed.is_plain() && !mixed.is_local() && !mixed.is_overheard(), "the plain one is here");
        let sockets = Endpoint::parse("unix:///run/a.sock,unix:///run/b.sock", Origin::Flag).unwrap();
        assert_eq!((sockets.to_string().as_str(), sockets.is_local()), ("unix:///run/a.sock", true));
        let error = Endpoint::parse("http://a:1,b:2", Origin::Flag).unwrap_err();
        assert_eq!(error.headline, "the endpoint \"b:2\" has no scheme: write http://HOST:PORT");
        let many = vec!["http://a:1"; 17].join(",");
        assert!(Endpoint::parse(&many, Origin::Flag).unwrap_err().headline.contains("names 17"));
    }

    #[test]
    fn what_is_no_endpoint_is_a_usage_error_that_says_where_it_came_from() {
        let error = Endpoint::parse("127.0.0.1:7400", Origin::Environment).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert_eq!(error.headline, "the endpoint \"127.0.0.1:7400\" has no scheme: write http://HOST:PORT");
        assert_eq!(error.details, ["the endpoint comes from GWCTL_ENDPOINT"]);
        assert_eq!(error.hints, ["for example http://127.0.0.1:7400"]);
    }
}

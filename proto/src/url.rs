//! Where a control plane is, as people write it.

use core::{fmt, net::IpAddr};
use std::path::PathBuf;

use tonic::transport::Uri;

/// Where a control plane is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ControlPlaneUrl {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    Web(Uri),
    /// `unix:///PATH`: a Unix socket of this machine.
    Unix(PathBuf),
}

impl ControlPlaneUrl {
    /// Reads a URL in one of these forms.
    ///
    /// # Errors
    /// What is wrong with it and what to write, to be read after the text itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("unix:") {
            return unix_path(text).map(Self::Unix);
        }
        if text.starts_with('/') {
            return Err(format!("has no scheme: write unix://{text}"));
        }
        web_url(text).map(Self::Web)
    }

    /// What its requests are for, in HTTP's words: a Unix socket has no name and no port.
    pub fn origin(&self) -> Uri {
        match self {
            Self::Web(url) => url.clone(),
            Self::Unix(_) => Uri::from_static("http://localhost"),
        }
    }

    /// Whether it is on this machine, as far as the URL says.
    pub fn is_local(&self) -> bool {
        let Self::Web(url) = self else { return true };
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
        host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }

    /// Whether what is sent there is encrypted on its way.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Web(url) if url.scheme_str() == Some("https"))
    }

    /// Whether a token that is shown there can be read by all between.
    pub fn is_overheard(&self) -> bool {
        !self.is_encrypted() && !self.is_local()
    }
}

/// As it was meant: without the slash that stands for the empty path.
impl fmt::Display for ControlPlaneUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Web(url) => f.write_str(url.to_string().trim_end_matches('/')),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// The scheme of Unix sockets. What follows it is the path, as it is.
const UNIX: &str = "unix://";
/// What the kernel takes of a socket's path.
const MAX_PATH_BYTES: usize = 107;

/// Reads `unix:///PATH`, which is absolute: those who read it may be in other folders.
///
/// # Errors
/// What is wrong with it and what to write, to be read after the text itself.
pub fn unix_path(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix(UNIX).filter(|path| path.starts_with('/') && !path.ends_with('/'));
    let path = path.ok_or("is no absolute path of a socket: write unix:///PATH")?;
    if path.len() > MAX_PATH_BYTES || path.contains('\0') {
        return Err(format!(
            "has a path of {} bytes, and the system takes {MAX_PATH_BYTES}: name a shorter one",
            path.len()
        ));
    }
    Ok(path.into())
}

/// Reads `http://HOST:PORT` or `https://HOST:PORT`.
///
/// # Errors
/// What is wrong with it and what to write, to be read after the text itself: `has a path: write http://HOST:PORT`.
pub fn web_url(text: &str) -> Result<Uri, String> {
    let refuse = |why: &str| Err(format!("{why}: write http://HOST:PORT"));
    let Ok(url) = text.parse::<Uri>() else { return refuse("is no URL") };
    match url.scheme_str() {
        Some("http" | "https") => {}
        Some(_) => return refuse("has a scheme that is neither http nor https"),
        None => return refuse("has no scheme"),
    }
    // A password would end up in logs, and nobody would ever ask for it.
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return refuse("has a user in it");
    }
    if url.host().is_none_or(str::is_empty) {
        return refuse("has no host");
    }
    if url.port_u16().is_none_or(|port| port == 0) {
        return refuse("needs a port between 1 and 65535");
    }
    if url.path() != "/" || url.query().is_some() {
        return refuse("has a path");
    }
    Ok(url)
}

/// A URL as messages show it: without the password that somebody may have put in front of its host.
pub fn without_user(text: &str) -> String {
    match text.rsplit_once('@') {
        None => text.to_owned(),
        Some((before, after)) => {
            // What is none of a scheme may be a part of the password.
            let is_scheme =
                |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
            let scheme = before.split_once("://").filter(|(scheme, _)| is_scheme(scheme));
            let scheme = scheme.map(|(scheme, _)| format!("{scheme}://"));
            format!("{}…@{after}", scheme.unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(without_user("http://ana:sesame@a:1/x"), "http://…@a:1/x");
        assert_eq!(without_user("ana:ses@me@a:1"), "…@a:1");
        assert_eq!(without_user("http://a:1"), "http://a:1");
    }

    #[test]
    fn a_control_plane_s_url_is_a_scheme_a_host_and_a_port_or_the_path_of_a_socket() {
        for (text, shown, is_local, is_encrypted) in [
            ("http://127.0.0.1:7400", "http://127.0.0.1:7400", true, false),
            ("http://gateway.example:80/", "http://gateway.example:80", false, false),
            ("http://[::1]:7400", "http://[::1]:7400", true, false),
            ("https://a:1", "https://a:1", false, true),
            ("unix:///run/gw?/x.sock", "unix:///run/gw?/x.sock", true, false),
        ] {
            let url = ControlPlaneUrl::parse(text).unwrap();
            assert_eq!(
                (url.to_string().as_str(), url.is_local(), url.is_encrypted()),
                (shown, is_local, is_encrypted)
            );
        }
    }

    #[test]
    fn a_socket_s_path_is_absolute_and_as_short_as_the_kernel_wants_it() {
        for (text, why) in [
            ("unix://x.sock", "is no absolute path of a socket: write unix:///PATH"),
            ("unix:///run/", "is no absolute path of a socket: write unix:///PATH"),
            ("/run/x.sock", "has no scheme: write unix:///run/x.sock"),
            ("unix:/run/x.sock", "is no absolute path of a socket: write unix:///PATH"),
        ] {
            assert_eq!(ControlPlaneUrl::parse(text), Err(why.to_owned()), "{text}");
        }
        let of = |bytes: usize| ControlPlaneUrl::parse(&format!("unix:///{}", "x".repeat(bytes - 1)));
        assert!(of(107).is_ok());
        assert_eq!(
            of(108),
            Err("has a path of 108 bytes, and the system takes 107: name a shorter one".to_owned())
        );
    }

    #[test]
    fn any_other_url_is_refused_with_what_to_write() {
        for (text, why) in [
            ("", "is no URL"),
            ("http://a b:1", "is no URL"),
            ("127.0.0.1:7400", "has no scheme"),
            ("ftp://a:1", "has a scheme that is neither http nor https"),
            ("http://user:secret@a:1", "has a user in it"),
            ("http://:1", "has no host"),
            ("http://a", "needs a port between 1 and 65535"),
            ("http://a:0", "needs a port between 1 and 65535"),
            ("http://a:1/x", "has a path"),
            ("http://a:1?x", "has a path"),
        ] {
            assert_eq!(web_url(text), Err(format!("{why}: write http://HOST:PORT")), "{text}");
        }
    }
}

//! Where a control plane is, as people write it.

use tonic::transport::Uri;

/// Reads the URL of a control plane, `http://HOST:PORT` or `https://HOST:PORT`.
///
/// # Errors
/// What is wrong with it and what to write, to be read after the text itself: `has a path: write http://HOST:PORT`.
pub fn control_plane_url(text: &str) -> Result<Uri, String> {
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
    fn a_control_plane_s_url_is_a_scheme_a_host_and_a_port() {
        for text in ["http://127.0.0.1:7400", "http://gateway.example:1/", "http://[::1]:7400", "https://a:1"]
        {
            assert!(control_plane_url(text).is_ok(), "{text}");
        }
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
            assert_eq!(control_plane_url(text), Err(format!("{why}: write http://HOST:PORT")), "{text}");
        }
    }
}

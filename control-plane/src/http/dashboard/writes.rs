//! Whether web pages may change anything, the dashboard among them.
//!
//! Where callers are asked who they are, that decides. Where they are not: on loopback whoever reaches the page is on this
//! machine; beyond it, a page with buttons would let everybody on the network drain a service by two clicks. Browsers say of
//! themselves that they are one, with every change that a script asks for, and no script can keep them from it. Programs are
//! not concerned.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, header};

use crate::{http::origin::SEC_FETCH_SITE, refusal::Refusal};

/// Whether changes are taken from pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct Allowed(pub(in crate::http) bool);

/// Refuses changes that a browser sent, unless they are allowed.
pub(in crate::http) async fn check(
    State(Allowed(allowed)): State<Allowed>,
    request: Request,
    next: Next,
) -> Response {
    if !allowed && is_change_by_page(request.method(), request.headers()) {
        return Refusal::PageWrite.into_response();
    }
    next.run(request).await
}

fn is_change_by_page(method: &Method, headers: &HeaderMap) -> bool {
    !method.is_safe() && (headers.contains_key(header::ORIGIN) || headers.contains_key(SEC_FETCH_SITE))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn a_change_is_a_page_s_when_a_browser_says_where_it_is_from() {
        let is_page = |method: Method, name: Option<HeaderName>| {
            let headers = name.into_iter().map(|name| (name, "same-origin".parse().unwrap())).collect();
            is_change_by_page(&method, &headers)
        };
        for method in [Method::POST, Method::PATCH, Method::PUT, Method::DELETE] {
            assert!(is_page(method.clone(), Some(header::ORIGIN)));
            assert!(is_page(method.clone(), Some(SEC_FETCH_SITE)));
            assert!(!is_page(method, None), "curl, gwctl, a library");
        }
        assert!(!is_page(Method::GET, Some(SEC_FETCH_SITE)), "looking is no change");
    }
}

//! The files of the page, in the binary as they are in the source tree, and served without what is for readers of them.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher},
    sync::LazyLock,
};

use axum::{
    body::Bytes,
    extract::Path,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::refusal::Refusal;

/// Nothing but what this server sends: no inline script, no frame around it, no form that leads elsewhere.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

/// A file: its name, its type, and what it says.
type Source = (&'static str, &'static str, &'static str);

/// What is served for a name.
struct Asset {
    kind: &'static str,
    text: Bytes,
    etag: String,
}

/// By name; made when the first one is asked for.
static ASSETS: LazyLock<BTreeMap<&str, Asset>> = LazyLock::new(|| {
    let asset = |(name, kind, source): &Source| {
        let text = trimmed(source);
        (*name, Asset { kind, etag: etag(text.as_bytes()), text: text.into() })
    };
    SOURCES.iter().map(asset).collect()
});

/// Without indentation, lines that are comments, and empty ones: a tenth of all. No text of the page goes on over lines.
fn trimmed(source: &str) -> String {
    let lines = source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

macro_rules! assets {
    ($($name:literal: $kind:ident),* $(,)?) => {
        [$(($name, $kind, include_str!(concat!("../../../dashboard/", $name)))),*]
    };
}

static SOURCES: &[Source] = &assets! {
    "index.html": HTML,
    "style.css": STYLE,
    "icon.svg": IMAGE,
    "actions.js": SCRIPT,
    "api.js": SCRIPT,
    "app.js": SCRIPT,
    "breakers.js": SCRIPT,
    "dialog.js": SCRIPT,
    "dom.js": SCRIPT,
    "events.js": SCRIPT,
    "format.js": SCRIPT,
    "history.js": SCRIPT,
    "keys.js": SCRIPT,
    "lab.js": SCRIPT,
    "model.js": SCRIPT,
    "nodes.js": SCRIPT,
    "overview.js": SCRIPT,
    "parts.js": SCRIPT,
    "policy.js": SCRIPT,
    "polled.js": SCRIPT,
    "replica.js": SCRIPT,
    "service.js": SCRIPT,
    "session.js": SCRIPT,
    "setting.js": SCRIPT,
    "store.js": SCRIPT,
    "stream.js": SCRIPT,
};

/// The page itself, under each of its names.
pub(super) async fn page(headers: HeaderMap) -> Response {
    send("index.html", &headers)
}

/// One file of it.
pub(super) async fn serve(Path(name): Path<String>, headers: HeaderMap) -> Response {
    send(&name, &headers)
}

fn send(name: &str, headers: &HeaderMap) -> Response {
    let Some(Asset { kind, text, etag }) = ASSETS.get(name) else {
        return Refusal::Path.into_response();
    };
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let is_known = known.flat_map(|value| value.split(',')).any(|known| known.trim() == etag.as_str());
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(header::CONTENT_TYPE, *kind)], text.clone()).into_response(),
    };
    let fixed: [(HeaderName, &'static str); 4] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // Asked for anew each time, and answered with 304 until the program is another: no file of an older one is
        // ever run beside newer ones.
        (header::CACHE_CONTROL, "no-cache"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    let headers = response.headers_mut();
    headers.extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
    headers.insert(header::ETAG, HeaderValue::try_from(etag.as_str()).expect("an etag is ASCII"));
    response
}

fn etag(bytes: &[u8]) -> String {
    // Without a key of its own, the same bytes have the same hash in every process.
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    format!("\"{:016x}\"", hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn every_file_of_the_folder_is_served_and_all_of_them_are_small() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/dashboard");
        let there: BTreeSet<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let served: BTreeSet<_> = ASSETS.keys().map(|name| (*name).to_owned()).collect();
        assert_eq!(there, served);
        let bytes: usize = ASSETS.values().map(|asset| asset.text.len()).sum();
        assert!(bytes < 150_000, "{bytes} bytes");
    }

    #[test]
    fn what_is_for_readers_of_a_file_is_not_served_and_no_text_loses_by_that() {
        assert_eq!(trimmed("// why\n\nf(\n  'a  b', // here\n);\n"), "f(\n'a  b', // here\n);\n");
        for (name, _, source) in SOURCES {
            for line in source.lines() {
                assert!(line.matches('`').count() % 2 == 0, "a text of {name} goes on over lines: {line}");
            }
        }
    }

    #[test]
    fn a_file_comes_with_its_type_and_with_a_policy_that_forbids_what_others_sent() {
        let response = send("app.js", &HeaderMap::new());
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], SCRIPT);
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache");
    }

    #[test]
    fn who_has_a_file_is_told_so_and_not_sent_it_again() {
        let etag = send("index.html", &HeaderMap::new()).headers()[header::ETAG].clone();
        let known = headers(&[(header::IF_NONE_MATCH, etag.to_str().unwrap())]);
        assert_eq!(send("index.html", &known).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(send("style.css", &known).status(), StatusCode::OK);
    }

    #[test]
    fn other_names_lead_nowhere() {
        for name in ["", "app", "../Cargo.toml", "index.html/"] {
            assert_eq!(send(name, &HeaderMap::new()).status(), StatusCode::NOT_FOUND, "{name}");
        }
    }

    #[test]
    fn the_page_runs_no_script_but_files_and_has_no_style_but_the_sheet() {
        for (name, _, text) in SOURCES {
            // What writes markup instead of text; the words are split so that this list does not find itself.
            for forbidden in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://"]
            {
                assert!(!text.contains(forbidden), "{name} has {forbidden}");
            }
            if *name == "index.html" {
                assert!(!text.contains("style=") && !text.contains(" on"), "{name} has inline code");
                assert!(!text.contains("<script>"), "{name} has an inline script");
            }
        }
    }
}

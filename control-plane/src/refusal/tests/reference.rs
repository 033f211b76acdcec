//! `docs/errors.md`, written from the table of refusals and what the list of reasons says of each.
//!
//! To write the file anew: `UPDATE_DOCS=1 cargo test -p control-plane the_reference_of_errors`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
};

use gateway_proto::reason;

use super::table;

const HEAD: &str = "\
# Errors of the control plane

<!-- Written from the code: UPDATE_DOCS=1 cargo test -p control-plane the_reference_of_errors writes it anew. -->

What is refused says what failed, why, and for programs, the reason: one of the table below, which is closed. New ones may be added,
none changes its meaning.

* **Over gRPC**, a status of the code, with details of `google.rpc`: `ErrorInfo` (the reason, domain `gateway.v1`), `BadRequest` (each
  field at fault, all of them at once), `RetryInfo` (when to try again, where that may help), `ResourceInfo` (what is missing or taken).
* **Over HTTP**, `application/problem+json` (RFC 9457) with the same: `status`, `detail`, `code`, `reason`, `domain`, `violations` as
  `[{\"field\", \"description\"}]`, and `Retry-After`. `type` is `about:blank`: the reason says more. What HTTP alone refuses has a row, too.
* **By `gwctl`**, as text, or with `-o json` as one object on stderr; its exit code follows from the gRPC code, see
  [gwctl.md](gwctl.md).

Only what says when to try again is worth trying again as it is. A client that registers itself tries again with jitter on
`UNAVAILABLE`, `DEADLINE_EXCEEDED` and `RESOURCE_EXHAUSTED`, and on nothing else.

What a **data plane** answers clients in place of a replica is in [refusals.md](refusals.md). It is told from an answer of a replica by
`Proxy-Status` with an `error`.

| reason | gRPC | HTTP | again | when |
|---|---|---|---|---|
";

/// What the list says of each reason: the comment above it.
fn meanings() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/src/reason.rs");
    let text = std::fs::read_to_string(path).unwrap();
    let mut meanings = BTreeMap::new();
    let mut comment = Vec::new();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix("/// ") {
            comment.push(line);
        } else if let Some(name) = line.strip_prefix("pub const ").and_then(|rest| rest.split(':').next()) {
            meanings.insert(name.to_owned(), comment.join(" "));
            comment.clear();
        }
    }
    meanings
}

fn reference() -> String {
    let (meanings, mut text) = (meanings(), HEAD.to_owned());
    for name in reason::ALL {
        let rows: Vec<_> = table().into_iter().filter(|(.., of)| *of == name).collect();
        assert!(!rows.is_empty(), "nothing is refused as {name}");
        let codes: BTreeSet<_> = rows.iter().map(|(_, code, ..)| *code).collect();
        let statuses: BTreeSet<_> = rows.iter().map(|(_, _, http, _)| http.to_string()).collect();
        let again = rows.iter().any(|(refusal, ..)| refusal.row().retry.is_some());
        let joined = |words: Vec<&str>| words.join(", ");
        writeln!(
            text,
            "| `{name}` | {} | {} | {} | {} |",
            joined(codes.into_iter().collect()),
            joined(statuses.iter().map(String::as_str).collect()),
            if again { "yes" } else { "" },
            meanings[name]
        )
        .unwrap();
    }
    text
}

#[test]
fn the_reference_of_errors_says_what_the_code_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    let reference = reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &reference).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, reference, "docs/errors.md is not up to date: see the head of {}", file!());
}

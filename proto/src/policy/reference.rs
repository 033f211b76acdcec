//! `docs/policy.md`, written from the table of settings and the comments of the contract.
//!
//! The test fails when the file, or a comment, says something else than the table. To write the file anew:
//! `UPDATE_DOCS=1 cargo test -p gateway-proto reference`.

use std::{collections::HashMap, fmt::Write as _};

use prost::Message as _;
use prost_types::{FileDescriptorSet, SourceCodeInfo};

use super::field::{FIELDS, Field, Range};

const HEAD: &str = "\
# Policies

How requests to a service are treated: for one service, or for all of them under the name `*`. A stored policy has the
settings that somebody set, and only those. For each setting, what holds is the value in the service's own policy, else that
in the policy of `*`, else the default; faults alone are taken from one of them as a whole. A change reaches data planes at once
and keeps what breakers have counted.

```
gwctl policy set '*' timeout.request=5s                       # for all services
gwctl policy set orders breaker.window=20s --reason \"flaky\"   # for one, which may not be registered yet
gwctl policy set orders request.methods=GET,POST request.max_body_bytes=10MiB
gwctl policy set chat request.upgrades=websocket timeout.tunnel_idle=8h
gwctl policy set orders concurrency.max_per_replica=50        # see docs/overload.md
gwctl policy set orders rate_limit.requests_per_second=100 rate_limit.key=address   # see docs/overload.md
gwctl fault set orders --abort 503 --ratio 0.1 --for 10m --reason \"game day\"     # see docs/faults.md
gwctl policy get orders --resolved                            # what holds, and where each value is from
gwctl policy unset orders breaker                             # back to what '*' says, for a whole group
gwctl policy delete orders                                    # for all of it
```

The control plane refuses what is out of range, and every change, also of `*`, after which some service would have
`retry.max_backoff` below `retry.base_backoff`, `breaker.max_open` below `breaker.base_open` or `concurrency.adaptive_max`
below `concurrency.adaptive_min`.

## From files

`gwctl policy apply -f FOLDER` makes the stored policies those of files, and with `--prune` removes all others; `gwctl policy diff` shows first what would
change. They change in one transaction (`ApplyPolicies`, `POST /v1/policies:apply`): all of them at one revision, which data planes get in one update, or none. A mistake in one
file changes nothing, nor does a control plane that dies in between, nor a policy that somebody has changed or made since they were read (`ETAG_MISMATCH`; his word is not
overwritten). What is inherited has to go together once all are changed, in whatever order they are.

One transaction takes 100 policies, and 384 KiB of them. Of more than 100, `gwctl` first asks about all, and then changes a hundred at a time; when the control plane goes away
between two of those, the exit code says that it is a part, and the same command does the rest.
";

/// Comments by the full name of the message or the field, e.g. `BreakerPolicy.window`, each on one line.
fn comments() -> HashMap<String, String> {
    let set = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
    let file = set.file.iter().find(|file| file.name().ends_with("policy_service.proto")).unwrap();
    let comment = |info: &SourceCodeInfo, path: &[i32]| {
        let location = info.location.iter().find(|location| location.path == path);
        let lines = location.map(|location| location.leading_comments());
        lines
            .filter(|lines| !lines.is_empty())
            .map(|lines| lines.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let info = file.source_code_info.as_ref().unwrap();
    let mut comments = HashMap::new();
    // In a file descriptor, 4 is the list of messages, and in a message, 2 is the list of fields.
    for (message, index) in file.message_type.iter().zip(0..) {
        comments.extend(comment(info, &[4, index]).map(|text| (message.name().to_owned(), text)));
        for (field, at) in message.field.iter().zip(0..) {
            let name = format!("{}.{}", message.name(), field.name());
            comments.extend(comment(info, &[4, index, 2, at]).map(|text| (name, text)));
        }
    }
    comments
}

/// The name of the message that a setting is in.
fn message(group: Option<&str>) -> String {
    let Some(group) = group else { return "Policy".to_owned() };
    let word = |word: &str| word.split_at(1).0.to_uppercase() + word.split_at(1).1;
    group.split('_').map(word).collect::<String>() + "Policy"
}

/// What the contract says of a setting beside its default and its range, which it must say last and as the table has them.
fn meaning(field: &Field, comments: &HashMap<String, String>) -> String {
    let (group, name) =
        field.path().split_once('.').map_or((None, field.path()), |(group, name)| (Some(group), name));
    let comment = &comments[&format!("{}.{name}", message(group))];
    let default = field.default_value();
    let end = match field.range() {
        Range::Flag => format!("Default {default}."),
        range => format!("Default {default}, {range}."),
    };
    let meaning = comment.strip_suffix(&end);
    meaning
        .unwrap_or_else(|| panic!("{}: the comment {comment:?} does not end with {end:?}", field.path()))
        .trim()
        .to_owned()
}

fn reference() -> String {
    let comments = comments();
    let mut text = HEAD.to_owned();
    let mut last = None;
    for field in &FIELDS {
        let group = field.path().split_once('.').map(|(group, _)| group);
        if last != Some(group) {
            let heading = group.map_or("Draining".to_owned(), |group| format!("`{group}`"));
            writeln!(text, "\n## {heading}\n").unwrap();
            if let Some(comment) = group.and_then(|_| comments.get(&message(group))) {
                writeln!(text, "{comment}\n").unwrap();
            }
            text.push_str("| setting | default | allowed | meaning |\n|---|---|---|---|\n");
            last = Some(group);
        }
        let (path, range, default) = (field.path(), field.range(), field.default_value());
        writeln!(text, "| `{path}` | {default} | {range} | {} |", meaning(field, &comments)).unwrap();
    }
    text
}

#[test]
fn the_reference_of_policies_says_what_the_table_and_the_contract_say() {
    crate::reference::assert_written("policy.md", &reference(), file!());
}

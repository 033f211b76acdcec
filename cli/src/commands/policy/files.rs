//! Policies in files: JSON or YAML, as `gwctl policy get -o json` and `-o yaml` print them, or TOML with the same names.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::Read as _,
    path::{Path, PathBuf},
};

use gateway_proto::{
    Invalid,
    json::{from_json, parse, pool},
    policy::{Partial, check_resolved},
    v1,
};
use gateway_runtime::root_cause;
use prost::Name as _;
use prost_reflect::{Kind, MessageDescriptor};
use serde_json::Value;

use super::Scope;
use crate::error::{Error, Exit};

/// Far more than all policies of a large gateway.
const MAX_BYTES: u64 = 16 << 20;
/// What the control plane writes and nobody can set.
const OUTPUT_ONLY: [&str; 12] = [
    "etag",
    "revision",
    "updateTime",
    "update_time",
    "updatedBy",
    "updated_by",
    "updateReason",
    "update_reason",
    "faultOrigin",
    "fault_origin",
    "nextPageToken",
    "next_page_token",
];

/// Where policies are read from.
#[derive(Debug, clap::Args)]
pub(crate) struct Files {
    /// File, folder of *.json, *.yaml and *.toml, or - for stdin, in JSON or YAML; may be repeated
    #[arg(short, long = "file", required = true, value_name = "PATH")]
    files: Vec<PathBuf>,
}

/// A policy, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Written {
    pub(super) scope: Scope,
    pub(super) policy: v1::Policy,
    pub(super) place: String,
}

impl Files {
    /// Every policy, that of `*` first, checked as far as that is possible without the control plane.
    ///
    /// # Errors
    /// A usage error with every fault, by file, service and setting.
    pub(super) fn read(&self) -> Result<Vec<Written>, Error> {
        let mut faults = Vec::new();
        let mut written: BTreeMap<String, Written> = BTreeMap::new();
        for path in paths(&self.files)? {
            let place = if path.as_os_str() == "-" { "stdin".to_owned() } else { path.display().to_string() };
            let values = match text(&path).and_then(|text| values(&path, &text)) {
                Ok(values) => values,
                Err(why) => {
                    faults.push(format!("{place}: {why}"));
                    continue;
                }
            };
            for value in values {
                match policy(value, &place) {
                    Ok(policy) => {
                        if let Some(other) = written.get(policy.scope.as_str()) {
                            faults.push(format!("{place}: {} is in {}, too", policy.scope, other.place));
                        } else {
                            written.insert(policy.scope.to_string(), policy);
                        }
                    }
                    Err(why) => faults.extend(why.into_iter().map(|why| format!("{place}: {why}"))),
                }
            }
        }
        faults.extend(contradictions(&written));
        if !faults.is_empty() {
            let mut error = Error::new(Exit::Usage, "these policies are not valid");
            error.details = faults;
            return Err(error.hint("docs/policy.md lists every setting with its range"));
        }
        // "*" sorts before every name.
        Ok(written.into_values().collect())
    }
}

/// The files, those of folders in the order of their names.
fn paths(given: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for path in given {
        if !path.is_dir() {
            paths.push(path.clone());
            continue;
        }
        let unreadable = |error| Error::new(Exit::Usage, format!("cannot read {}: {error}", path.display()));
        let mut inside = Vec::new();
        for entry in path.read_dir().map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let extension = path.extension().and_then(OsStr::to_str);
            if matches!(extension, Some("json" | "yaml" | "yml" | "toml")) {
                inside.push(path);
            }
        }
        inside.sort();
        paths.extend(inside);
    }
    Ok(paths)
}

fn text(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(MAX_BYTES).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
    };
    read.map_err(|error| root_cause(&error))?;
    Ok(text)
}

/// The policies of a file: of `policies`, of a list, or the file itself. YAML may hold several documents.
fn values(path: &Path, text: &str) -> Result<Vec<Value>, String> {
    let wholes: Vec<Value> = match path.extension().and_then(OsStr::to_str) {
        Some("toml") => vec![toml::from_str(text).map_err(|error| error.to_string())?],
        // YAML includes JSON, but what is wrong with JSON is better told by those who read nothing else.
        Some("yaml" | "yml") => serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?,
        None if !text.trim_start().starts_with(['{', '[']) => {
            serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?
        }
        _ => vec![parse(text.as_bytes()).map_err(|error| error.to_string())?],
    };
    let mut policies = Vec::new();
    for whole in wholes {
        policies.append(&mut policies_of(whole)?);
    }
    Ok(policies)
}

fn policies_of(whole: Value) -> Result<Vec<Value>, String> {
    match whole {
        Value::Array(policies) => Ok(policies),
        Value::Object(mut fields) if fields.contains_key("policies") => match fields.remove("policies") {
            Some(Value::Array(policies)) => Ok(policies),
            _ => Err("policies: is no list".into()),
        },
        Value::Object(mut fields) => match fields.remove("policy") {
            // As one policy is answered.
            Some(policy) if fields.is_empty() => Ok(vec![policy]),
            Some(policy) => {
                fields.insert("policy".into(), policy);
                Ok(vec![Value::Object(fields)])
            }
            None => Ok(vec![Value::Object(fields)]),
        },
        _ => Err("holds no policy: { \"service\": …, \"breaker\": { … } }".into()),
    }
}

fn policy(mut value: Value, place: &str) -> Result<Written, Vec<String>> {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, _| !OUTPUT_ONLY.contains(&name.as_str()));
    }
    if let Some(message) = pool().get_message_by_name(&v1::Policy::full_name()) {
        to_seconds(&mut value, &message);
    }
    let service = value.get("service").and_then(Value::as_str).unwrap_or_default().to_owned();
    let told = |invalid: Invalid| -> Vec<String> {
        let name = if service.is_empty() { "?" } else { &service };
        invalid.violations().iter().map(|v| format!("{name}: {}: {}", v.field, v.description)).collect()
    };
    let policy: v1::Policy = from_json(&value).map_err(told)?;
    if policy.service.is_empty() {
        return Err(vec!["service: is missing; \"*\" stands for all of them".into()]);
    }
    let scope = policy.service.parse::<Scope>().map_err(told)?;
    Partial::parse(&policy).map_err(told)?;
    Ok(Written { scope, policy, place: place.to_owned() })
}

/// Durations as people write them, `800ms` and `1h 30m`, become those of proto3 JSON, `0.8s` and `5400s`.
fn to_seconds(value: &mut Value, message: &MessageDescriptor) {
    let Some(fields) = value.as_object_mut() else { return };
    for (name, value) in fields {
        let field = message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name));
        let Some(Kind::Message(inner)) = field.map(|field| field.kind()) else { continue };
        if inner.full_name() != "google.protobuf.Duration" {
            to_seconds(value, &inner);
        } else if let Some(span) = value.as_str().and_then(|text| humantime::parse_duration(text).ok()) {
            *value = Value::from(format!("{}.{:09}s", span.as_secs(), span.subsec_nanos()));
        }
    }
}

/// Settings that do not go together, as far as the files tell.
fn contradictions(written: &BTreeMap<String, Written>) -> Vec<String> {
    let partial = |written: &Written| Partial::parse(&written.policy).unwrap_or_default();
    let star = written.get("*").map(partial);
    let check = |written: &Written| {
        let own = (written.scope != Scope::All).then(|| partial(written));
        let invalid = check_resolved(star.as_ref(), own.as_ref()).err()?;
        Some(
            invalid
                .violations()
                .iter()
                .map(|v| format!("{}: {}: {}: {}", written.place, written.scope, v.field, v.description))
                .collect::<Vec<_>>(),
        )
    };
    written.values().filter_map(check).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Vec<(String, v1::Policy)>, Error> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let read = Files { files: vec![folder.path().to_owned()] }.read()?;
        Ok(read.into_iter().map(|written| (written.scope.to_string(), written.policy)).collect())
    }

    #[test]
    fn every_shape_of_a_file_is_read_and_star_comes_first() {
        let read = read(&[
            ("a.json", r#"{"policies": [{"service": "orders", "breaker": {"window": "20s"}, "revision": "7", "etag": "x"}]}"#),
            ("b.json", r#"{"service": "payments", "timeout": {"perTry": "800ms"}}"#),
            ("c.toml", "[[policies]]\nservice = \"*\"\n[policies.timeout]\nrequest = \"5s\"\n"),
            ("d.json", r#"[{"service": "a", "breaker": {"failure_ratio": 0.3}}]"#),
            ("e.yaml", "---\nservice: mailer\nretry:\n  methods: [GET, PUT]\n---\nservice: 'no'\ndrainTimeout: 10s\n"),
            ("ignored.txt", "whatever"),
        ])
        .unwrap();
        let names: Vec<_> = read.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["*", "a", "mailer", "no", "orders", "payments"]);
        assert_eq!(read[2].1.retry.as_ref().unwrap().methods, ["GET", "PUT"]);
        let read: Vec<_> =
            read.into_iter().filter(|(name, _)| !["mailer", "no"].contains(&name.as_str())).collect();
        assert_eq!(read[2].1.revision, 0, "what nobody can set is left out");
        assert_eq!(read[2].1.breaker.unwrap().window.unwrap().seconds, 20);
        let per_try = read[3].1.timeout.unwrap().per_try.unwrap();
        assert_eq!((per_try.seconds, per_try.nanos), (0, 800_000_000));
    }

    #[test]
    fn every_fault_is_told_with_its_file_its_service_and_its_setting() {
        let error = read(&[
            ("a.json", r#"{"service": "orders", "breaker": {"failureRatio": 50}}"#),
            ("b.json", r#"{"service": "orders2", "braker": {}}"#),
            ("c.json", r#"{"breaker": {}}"#),
            ("d.json", "{"),
            ("e.toml", "service = \"x\"\n[breaker]\nbase_open = \"1h\"\nmax_open = \"1s\"\n"),
            ("f.json", r#"{"service": "x"}"#),
            ("g.yaml", "service: y\nbreaker: {window: 20s, window: 30s}\n"),
            ("h.yml", "service: z\nbreaker:\n\twindow: 20s\n"),
        ])
        .unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        let details = error.details.join("\n");
        for part in [
            "a.json: orders: breaker.failure_ratio: 50 is not above 0.0 and up to 1.0",
            "b.json: orders2: braker: is unknown; did you mean breaker?",
            "c.json: service: is missing",
            "d.json: ",
            "e.toml: x: breaker.",
            "f.json: x is in ",
            "g.yaml: ",
            "h.yml: ",
        ] {
            assert!(details.contains(part), "{part}\n{details}");
        }
    }
}

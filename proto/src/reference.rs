//! `docs/protos.md`, written from the contract and its comments.
//!
//! To write the file anew: `UPDATE_DOCS=1 cargo test -p gateway-proto the_reference_of_the_contract`.

use std::{collections::HashMap, fmt::Write as _, path::Path};

use prost_reflect::{
    EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, ServiceDescriptor,
};

use crate::json::pool;

const HEAD: &str = "\
# The contract

<!-- Written from proto/gateway/v1: UPDATE_DOCS=1 cargo test -p gateway-proto the_reference_of_the_contract writes it anew. -->

Every service, message and value of `gateway.v1`, as [proto/gateway/v1](../proto/gateway/v1) has them. Both reflection services tell the
same (`grpcurl -plaintext localhost:7400 describe gateway.v1.RegistryService`), and all of it but streams of clients is there as
[REST](rest.md). Within v1 things are added, and none is changed or taken away. Errors are in [errors.md](errors.md), clients in
[clients.md](clients.md).
";

/// Comments by file and place in it, each paragraph on one line.
struct Comments(HashMap<(String, Vec<i32>), String>);

impl Comments {
    fn new() -> Self {
        let mut comments = HashMap::new();
        for file in ours() {
            let info = file.file_descriptor_proto().source_code_info.as_ref().unwrap();
            for location in &info.location {
                let text = location.leading_comments();
                let lines: Vec<_> = text
                    .split("\n\n")
                    .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "))
                    .collect();
                comments.insert((file.name().to_owned(), location.path.clone()), lines.join("\n\n"));
            }
        }
        Self(comments)
    }

    fn of(&self, file: &FileDescriptor, path: &[i32]) -> String {
        let text = self.0.get(&(file.name().to_owned(), path.to_vec())).cloned().unwrap_or_default();
        // A pattern must not become a link.
        text.replace('<', "&lt;").replace("](", "]\\(")
    }

    /// The same in a table's cell.
    fn cell(&self, file: &FileDescriptor, path: &[i32]) -> String {
        self.of(file, path).replace("\n\n", " ").replace('|', "\\|")
    }
}

/// The files, in the order of their names.
fn ours() -> impl Iterator<Item = FileDescriptor> {
    pool().files().filter(|file| file.package_name() == "gateway.v1")
}

fn reference() -> String {
    let (comments, mut text) = (Comments::new(), HEAD.to_owned());
    let mut files: Vec<_> = ours().collect();
    files.sort_by(|one, other| {
        let order = |file: &FileDescriptor| (file.services().count() == 0, file.name().to_owned());
        order(one).cmp(&order(other))
    });
    for file in files {
        writeln!(text, "\n## {}", file.name()).unwrap();
        file.services().for_each(|of| service(&of, &comments, &mut text));
        file.messages().for_each(|of| message(&of, &comments, &mut text));
        file.enums().for_each(|of| enumeration(&of, &comments, &mut text));
    }
    text
}

fn section(kind: &str, name: &str, comment: &str, text: &mut String) {
    writeln!(text, "\n### {kind} {name}\n").unwrap();
    if !comment.is_empty() {
        writeln!(text, "{comment}\n").unwrap();
    }
}

fn service(of: &ServiceDescriptor, comments: &Comments, text: &mut String) {
    let file = of.parent_file();
    section("service", of.name(), &comments.of(&file, of.path()), text);
    text.push_str("| RPC | takes | answers | |\n|---|---|---|---|\n");
    for rpc in of.methods() {
        let streamed = |message: MessageDescriptor, is_stream: bool| {
            let link = link(&message);
            if is_stream { format!("stream of {link}") } else { link }
        };
        let (takes, answers) = (
            streamed(rpc.input(), rpc.is_client_streaming()),
            streamed(rpc.output(), rpc.is_server_streaming()),
        );
        let comment = comments.cell(&file, rpc.path());
        assert!(!comment.is_empty(), "{} says nothing", rpc.full_name());
        writeln!(text, "| `{}` | {takes} | {answers} | {comment} |", rpc.name()).unwrap();
    }
}

fn link(message: &MessageDescriptor) -> String {
    format!("[{0}](#message-{1})", message.name(), message.name().to_lowercase())
}

fn message(of: &MessageDescriptor, comments: &Comments, text: &mut String) {
    if of.is_map_entry() {
        return;
    }
    let file = of.parent_file();
    section("message", of.name(), &comments.of(&file, of.path()), text);
    if of.fields().count() == 0 {
        text.push_str("No fields.\n");
        return;
    }
    text.push_str("| field | | type | |\n|---|---|---|---|\n");
    for field in of.fields() {
        let (name, number, kind) = (field.name(), field.number(), kind(&field));
        writeln!(text, "| `{name}` | {number} | {kind} | {} |", comments.cell(&file, field.path())).unwrap();
    }
    of.child_messages().for_each(|child| message(&child, comments, text));
    of.child_enums().for_each(|child| enumeration(&child, comments, text));
}

fn kind(field: &FieldDescriptor) -> String {
    let plain = |kind: Kind| match kind {
        Kind::Message(message) if message.package_name() == "gateway.v1" => link(&message),
        Kind::Message(message) => message.full_name().trim_start_matches("google.protobuf.").to_owned(),
        Kind::Enum(of) => format!("[{0}](#enum-{1})", of.name(), of.name().to_lowercase()),
        kind => format!("{kind:?}").to_lowercase(),
    };
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else { unreachable!("a map is of entries") };
        let part = |number| plain(entry.get_field(number).unwrap().kind());
        return format!("map of {} to {}", part(1), part(2));
    }
    let kind = plain(field.kind());
    match field.containing_oneof() {
        _ if field.is_list() => format!("list of {kind}"),
        Some(one) if !one.is_synthetic() => format!("{kind}, one of `{}`", one.name()),
        Some(_) => format!("optional {kind}"),
        None => kind,
    }
}

fn enumeration(of: &EnumDescriptor, comments: &Comments, text: &mut String) {
    let file = of.parent_file();
    section("enum", of.name(), &comments.of(&file, of.path()), text);
    text.push_str("| value | | |\n|---|---|---|\n");
    for value in of.values() {
        let (name, number) = (value.name(), value.number());
        writeln!(text, "| `{name}` | {number} | {} |", comments.cell(&file, value.path())).unwrap();
    }
}

#[test]
fn the_reference_of_the_contract_says_what_the_contract_says() {
    let reference = reference();
    assert!(reference.contains("| `Register` | [RegisterRequest](#message-registerrequest) |"));
    assert_written("protos.md", &reference, file!());
}

/// That a document of the repository is what the code says now; with `UPDATE_DOCS` it is written first. `by` is the file that
/// says how.
pub(crate) fn assert_written(name: &str, reference: &str, by: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, reference).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == reference, "docs/{name} is not up to date: see the head of {by}");
}

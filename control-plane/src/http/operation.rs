//! A route together with what the contract says of its RPC.

use std::sync::LazyLock;

use http::Method;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};

use super::{
    call::Grpc,
    paths::{Found, Pattern, find},
    routes::{Mask, Payload, Route, WATCH, routes},
};

/// A route, ready to be served and to be described.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) route: Route,
    pub(super) rpc: MethodDescriptor,
    pattern: Pattern,
    /// For each field in the path the way to it: `policy`, then `service`.
    pub(super) path_fields: Vec<Vec<FieldDescriptor>>,
    /// What may be a query parameter.
    pub(super) query_fields: Vec<FieldDescriptor>,
}

static OPERATIONS: LazyLock<Vec<Operation>> =
    LazyLock::new(|| routes().into_iter().map(Operation::new).collect());

/// What has a header of its own, or is made from the body, or must not be in a log of paths.
const NOT_IN_QUERY: [&str; 5] = ["etag", "lease_id", "request_id", "update_mask", "validate_only"];

impl Operation {
    /// All there are, in the table's order.
    pub(super) fn all() -> &'static [Self] {
        &OPERATIONS
    }

    /// The one for a method and a path, as it was sent.
    pub(super) fn find(method: &Method, path: &str) -> Found<'static, Self> {
        find(Self::all(), |operation| (&operation.route.method, &operation.pattern), method, path)
    }

    /// The stream of what this lists, if there is one.
    pub(super) fn watched(&self) -> Option<&'static Self> {
        if self.is_write() {
            return None;
        }
        Self::all().iter().find(|other| other.route.path.strip_suffix(WATCH) == Some(self.route.path))
    }

    /// # Panics
    /// When the contract lacks what the table names. A test looks at every one.
    fn new(route: Route) -> Self {
        let rpc = Grpc::method(route.service, route.rpc);
        let pattern = Pattern::parse(route.path);
        let path_fields: Vec<_> = pattern.fields().map(|path| fields_along(&rpc.input(), path)).collect();
        let is_in_path = |field: &FieldDescriptor| path_fields.iter().any(|path| path[0] == *field);
        let input = rpc.input();
        let fields = input.fields().filter(|field| match route.payload {
            Payload::Whole => false,
            // Whoever says all of something may also be the first to.
            Payload::Field(_, Mask::All) if field.name() == "allow_missing" => false,
            Payload::Nothing | Payload::Field(..) => {
                !is_in_path(field) && !NOT_IN_QUERY.contains(&field.name()) && fits_query(field)
            }
        });
        let query_fields = fields.collect();
        Self { route, rpc, pattern, path_fields, query_fields }
    }

    /// The fields in the path: as the template has them, and what they are.
    pub(super) fn pattern_fields(&self) -> impl Iterator<Item = (&'static str, &FieldDescriptor)> {
        let last = self.path_fields.iter().map(|way| way.last().expect("a path of a field has a part"));
        self.pattern.fields().zip(last)
    }

    /// A field of the request, if it has one of that name.
    pub(super) fn field(&self, name: &str) -> Option<FieldDescriptor> {
        self.rpc.input().get_field_by_name(name)
    }

    /// The field that the body is, and its mask.
    pub(super) fn body_field(&self) -> Option<(FieldDescriptor, Mask)> {
        match self.route.payload {
            Payload::Field(name, mask) => {
                Some((self.field(name).expect("the table names fields of the request"), mask))
            }
            Payload::Nothing | Payload::Whole => None,
        }
    }

    /// Whether it changes anything.
    pub(super) fn is_write(&self) -> bool {
        self.route.method != Method::GET
    }
}

fn fields_along(message: &MessageDescriptor, path: &str) -> Vec<FieldDescriptor> {
    let mut message = message.clone();
    let field = |name| {
        let field = message.get_field_by_name(name).expect("paths name fields of the request");
        if let Kind::Message(inner) = field.kind() {
            message = inner;
        }
        field
    };
    path.split('.').map(field).collect()
}

/// Whether text without quotes can say it: scalars, and what JSON has as a string.
fn fits_query(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(message) => message.package_name() == "google.protobuf" && !field.is_map(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use gateway_proto::json::pool;

    use super::{super::routes::Answer, *};

    #[test]
    fn every_rpc_that_a_request_and_an_answer_make_has_a_route_and_so_has_every_watch() {
        let routed: HashSet<_> = Operation::all().iter().map(|op| op.rpc.full_name().to_owned()).collect();
        let ours = pool().services().filter(|service| service.package_name() == "gateway.v1");
        for rpc in ours.flat_map(|service| service.methods().collect::<Vec<_>>()) {
            // What clients stream has no form in REST: data planes and libraries speak gRPC.
            assert_eq!(routed.contains(rpc.full_name()), !rpc.is_client_streaming(), "{}", rpc.full_name());
        }
    }

    #[test]
    fn a_route_streams_if_its_rpc_does_and_no_two_are_for_the_same_request() {
        let mut seen = HashSet::new();
        for operation in Operation::all() {
            let route = &operation.route;
            assert_eq!(route.answer == Answer::Stream, operation.rpc.is_server_streaming(), "{}", route.path);
            assert!(
                seen.insert((&route.method, route.path)),
                "{} {} is there twice",
                route.method,
                route.path
            );
            if let Answer::Field(name) = route.answer {
                assert!(operation.rpc.output().get_field_by_name(name).is_some(), "{}", route.path);
            }
            // What is listed and watched under one path is watched by its suffix.
            let lists = route.rpc.starts_with("List");
            assert!(!lists || !route.path.contains(':'), "{}", route.path);
        }
        let operations: HashSet<_> = Operation::all().iter().map(|op| op.route.operation).collect();
        assert_eq!(operations.len(), Operation::all().len());
    }

    #[test]
    fn every_field_of_a_request_can_be_given_one_way() {
        for operation in Operation::all() {
            for field in operation.rpc.input().fields() {
                let in_path = operation.path_fields.iter().any(|path| path[0] == field);
                let in_query = operation.query_fields.contains(&field);
                let in_body = match operation.route.payload {
                    Payload::Whole => true,
                    Payload::Field(name, mask) => {
                        [name, "update_mask"].contains(&field.name())
                            || mask == Mask::All && field.name() == "allow_missing"
                    }
                    Payload::Nothing => false,
                };
                let has_header = ["etag", "lease_id", "request_id", "validate_only"].contains(&field.name());
                assert!(in_path || in_query || in_body || has_header, "{}", field.full_name());
                assert!(!(in_query && (in_path || in_body)), "{}", field.full_name());
            }
        }
    }

    #[test]
    fn what_is_listed_and_watched_has_one_path_for_both() {
        let watched: Vec<_> =
            Operation::all().iter().filter_map(|op| Some((op.route.rpc, op.watched()?.route.rpc))).collect();
        assert_eq!(
            watched,
            [
                ("ListReplicas", "WatchReplicas"),
                ("ListBreakers", "WatchBreakers"),
                ("ListEvents", "WatchEvents"),
            ]
        );
    }
}

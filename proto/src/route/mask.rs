//! What becomes of a route by an update.

use super::{FieldMask, Invalid, nearest, v1};

/// One field that may be changed.
struct Field {
    name: &'static str,
    is_set: fn(&v1::Route) -> bool,
    copy: fn(&mut v1::Route, &v1::Route),
}

macro_rules! field {
    ($name:ident, $is_set:expr) => {
        Field { name: stringify!($name), is_set: $is_set, copy: |to, from| to.$name.clone_from(&from.$name) }
    };
}

const FIELDS: [Field; 7] = [
    field!(service, |route| !route.service.is_empty()),
    field!(host, |route| !route.host.is_empty()),
    field!(path_prefix, |route| !route.path_prefix.is_empty()),
    field!(methods, |route| !route.methods.is_empty()),
    field!(headers, |route| !route.headers.is_empty()),
    field!(priority, |route| route.priority != 0),
    field!(rewrite_prefix, |route| !route.rewrite_prefix.is_empty()),
];

/// What names a route and what the registry says of it: no changes.
const OTHERS: [&str; 6] = ["name", "etag", "revision", "update_time", "updated_by", "update_reason"];

/// What becomes of `before` by a change, still unchecked but for the mask.
///
/// Without a mask, or with an empty one, every field that `change` has is taken over; with one, those that it names are,
/// set or not; `*` names all.
///
/// # Errors
/// [`Invalid`] for `update_mask` with one violation for each path that names nothing.
pub fn updated(
    before: &v1::Route,
    change: &v1::Route,
    mask: Option<&FieldMask>,
) -> Result<v1::Route, Invalid> {
    let paths = mask.map_or(&[][..], |mask| &mask.paths);
    let unknown = paths.iter().map(String::as_str).filter(|path| !is_known(path)).map(unknown);
    Invalid::unless_empty(unknown.collect())?;
    let is_named = |field: &Field| match paths {
        [] => (field.is_set)(change),
        paths => paths.iter().any(|path| path == "*" || path == field.name),
    };
    let mut route = before.clone();
    route.name.clone_from(&change.name);
    for field in FIELDS.iter().filter(|field| is_named(field)) {
        (field.copy)(&mut route, change);
    }
    Ok(route)
}

fn is_known(path: &str) -> bool {
    path == "*" || OTHERS.contains(&path) || FIELDS.iter().any(|field| field.name == path)
}

fn unknown(path: &str) -> crate::Violation {
    let names = FIELDS.map(|field| field.name);
    let short: String = path.chars().take(64).collect();
    let hint = nearest(&short, names).map_or_else(String::new, |name| format!(" (did you mean \"{name}\"?)"));
    crate::Violation {
        field: "update_mask".to_owned(),
        description: format!(
            "\"{}\" is no field of a route{hint}: there are {}",
            short.escape_debug(),
            names.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    fn route(service: &str, host: &str, priority: i32) -> v1::Route {
        v1::Route {
            name: "shop".into(),
            service: service.into(),
            host: host.into(),
            priority,
            ..Default::default()
        }
    }

    fn mask<const N: usize>(paths: [&str; N]) -> Option<FieldMask> {
        Some(FieldMask { paths: paths.map(str::to_owned).into() })
    }

    #[test]
    fn every_field_of_the_message_may_be_named() {
        let pool = DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
        let message = pool.get_message_by_name("gateway.v1.Route").unwrap();
        let names: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
        assert!(names.iter().all(|name| is_known(name)), "{names:?}");
        assert_eq!(names.len(), FIELDS.len() + OTHERS.len());
    }

    #[test]
    fn without_a_mask_what_is_set_is_taken_over_and_with_one_what_is_named() {
        let (before, change) = (route("orders", "a.example", 7), route("", "b.example", 0));
        let after = |mask: Option<FieldMask>| updated(&before, &change, mask.as_ref()).unwrap();
        assert_eq!(after(None), route("orders", "b.example", 7));
        assert_eq!(after(mask([])), route("orders", "b.example", 7));
        assert_eq!(after(mask(["*"])), change);
        assert_eq!(after(mask(["priority", "etag", "name"])), route("orders", "a.example", 0));
    }

    #[test]
    fn every_path_that_names_nothing_is_refused() {
        let nothing = v1::Route::default();
        let invalid = updated(&nothing, &nothing, mask(["hots", "match", "host"]).as_ref()).unwrap_err();
        assert_eq!(invalid.violations().len(), 2);
        let first = &invalid.violations()[0];
        assert_eq!(first.field, "update_mask");
        assert!(
            first.description.starts_with(
                "\"hots\" is no field of a route (did you mean \"host\"?): there are service, host,"
            ),
            "{first:?}"
        );
    }
}

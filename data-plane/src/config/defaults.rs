//! What holds where nobody said otherwise and the machine decides.

use std::{ffi::OsString, path::PathBuf};

use gateway_proto::NodeId;

/// Where a control plane listens that was started without flags.
pub(super) const CONTROL_PLANE: &str = "http://127.0.0.1:7400";
/// The proxy's own default port, which needs no mention in a node's name.
const PROXY_PORT: u16 = 8080;

/// The host's name as the kernel, the system's files or the environment tell it.
pub(super) fn hostname() -> Option<String> {
    let from_file = |path: &str| std::fs::read_to_string(path).ok();
    from_file("/proc/sys/kernel/hostname")
        .or_else(|| from_file("/etc/hostname"))
        .or_else(|| std::env::var("HOSTNAME").ok())
}

/// A node id from the host's name, and whether the next start would find the same one.
///
/// Two data planes on one host must not share a name, or each would take the other's stream: the port tells them
/// apart, and where the port is left to the kernel, or no name is known, chance does.
pub(super) fn node_id(hostname: Option<&str>, port: u16, random: u32) -> (NodeId, bool) {
    let name = hostname.unwrap_or_default().trim();
    let label: String = name
        .chars()
        .take_while(|c| *c != '.')
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(48)
        .collect();
    let label = label.trim_matches('-');
    let is_named = !matches!(label, "" | "localhost");
    let label = if is_named { label } else { "node" };
    let (id, is_stable) = match port {
        PROXY_PORT if is_named => (label.to_owned(), true),
        port if is_named && port != 0 => (format!("{label}-{port}"), true),
        _ => (format!("{label}-{random:08x}"), false),
    };
    let id = NodeId::parse(&id).expect("letters, digits and inner hyphens, at most 57 of them, are a label");
    (id, is_stable)
}

/// A directory that outlives the process and belongs to this node alone; `None` when the environment names none.
pub(super) fn cache_directory(env: impl Fn(&str) -> Option<OsString>, node_id: &NodeId) -> Option<PathBuf> {
    // A relative path would depend on where the process was started.
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("STATE_DIRECTORY")
        .or_else(|| absolute("XDG_STATE_HOME").map(|state| state.join("gateway")))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state/gateway")))?;
    Some(state.join(node_id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_by_its_host_and_by_its_port_unless_that_is_the_default() {
        for (hostname, port, expected) in [
            (Some("web-1\n"), 8080, ("web-1", true)),
            (Some("Web_1.example.com"), 8081, ("web-1-8081", true)),
            (Some("-x-"), 8080, ("x", true)),
            (Some("web-1"), 0, ("web-1-0000002a", false)),
            (Some("localhost"), 8080, ("node-0000002a", false)),
            (Some("---"), 8081, ("node-0000002a", false)),
            (None, 0, ("node-0000002a", false)),
        ] {
            let (id, is_stable) = node_id(hostname, port, 42);
            assert_eq!((id.as_str(), is_stable), expected);
        }
        assert_eq!(node_id(Some(&"x".repeat(300)), 65_535, 42).0.as_str().len(), 54);
    }

    #[test]
    fn the_cache_lies_in_the_first_state_directory_that_the_environment_names() {
        let id = NodeId::parse("web-1").unwrap();
        let directory = |pairs: &[(&str, &str)]| {
            cache_directory(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()), &id)
        };
        let home = ("HOME", "/home/me");
        let xdg = ("XDG_STATE_HOME", "/state");
        let systemd = ("STATE_DIRECTORY", "/var/lib/gateway");
        assert_eq!(directory(&[home]), Some("/home/me/.local/state/gateway/web-1".into()));
        assert_eq!(directory(&[home, xdg]), Some("/state/gateway/web-1".into()));
        assert_eq!(directory(&[home, xdg, systemd]), Some("/var/lib/gateway/web-1".into()));
        assert_eq!(directory(&[("XDG_STATE_HOME", "relative")]), None);
        assert_eq!(directory(&[]), None);
    }
}

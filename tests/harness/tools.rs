//! Programs that are not ours, and that some tests are about: curl, grpcurl, h2spec, HAProxy, etcd, promtool, kustomize, shells, Python with
//! grpcio and websockets, Chromium, Node.js with Playwright to drive it.
//!
//! A test whose tool is missing fails. Whoever cannot install one leaves those tests out by name, visibly:
//! their names end in `by_curl`, `by_grpcurl`, `by_h2spec`, `by_haproxy`, `by_etcd`, `by_promtool`, `by_python`,
//! `by_chromium`, `by_playwright`, `by_go`, `by_node`, `by_java`, `by_systemd`, `by_bash`, `by_zsh`, `by_fish`,
//! `by_kustomize` and `by_script`.

use std::path::{Path, PathBuf};

/// A folder with another etcd and etcdctl than those of the system.
const OTHER_ETCD: &str = "GW_TEST_ETCD";

/// curl, from the system.
///
/// # Panics
/// When it is missing.
pub fn curl() -> PathBuf {
    find("curl", "by_curl")
}

/// bash, from the system.
///
/// # Panics
/// When it is missing.
pub fn bash() -> PathBuf {
    find("bash", "by_bash")
}

/// zsh, from the system.
///
/// # Panics
/// When it is missing.
pub fn zsh() -> PathBuf {
    find("zsh", "by_zsh")
}

/// fish, from the system.
///
/// # Panics
/// When it is missing.
pub fn fish() -> PathBuf {
    find("fish", "by_fish")
}

/// kustomize, from tests/.tools or the system.
///
/// # Panics
/// When it is missing.
pub fn kustomize() -> PathBuf {
    find("kustomize", "by_kustomize")
}

/// `script` of util-linux, from the system: it runs a program in a terminal of its own.
///
/// # Panics
/// When it is missing.
pub fn script() -> PathBuf {
    find("script", "by_script")
}

/// grpcurl, from tests/.tools or the system.
///
/// # Panics
/// When it is missing.
pub fn grpcurl() -> PathBuf {
    find("grpcurl", "by_grpcurl")
}

/// h2spec, from tests/.tools or the system.
///
/// # Panics
/// When it is missing.
pub fn h2spec() -> PathBuf {
    find("h2spec", "by_h2spec")
}

/// HAProxy, from the system.
///
/// # Panics
/// When it is missing.
pub fn haproxy() -> PathBuf {
    find("haproxy", "by_haproxy")
}

/// etcd, from `GW_TEST_ETCD`, tests/.tools or the system.
///
/// # Panics
/// When it is missing.
pub fn etcd() -> PathBuf {
    of_etcd("etcd")
}

/// etcdctl, from where etcd is.
///
/// # Panics
/// When it is missing.
pub fn etcdctl() -> PathBuf {
    of_etcd("etcdctl")
}

/// Whoever names a folder wants the version that is there, and no other one in its place.
fn of_etcd(name: &str) -> PathBuf {
    let Some(folder) = std::env::var_os(OTHER_ETCD) else { return find(name, "by_etcd") };
    let path = Path::new(&folder).join(name);
    assert!(path.is_file(), "{OTHER_ETCD} is {folder:?}, in which there is no {name}");
    path
}

/// promtool, from tests/.tools or the system.
///
/// # Panics
/// When it is missing.
pub fn promtool() -> PathBuf {
    find("promtool", "by_promtool")
}

/// Chromium, from the system.
///
/// # Panics
/// When it is missing.
pub fn chromium() -> PathBuf {
    find("chromium", "by_chromium")
}

/// Node.js, from the system.
///
/// # Panics
/// When it is missing.
pub fn node() -> PathBuf {
    find("node", "by_playwright")
}

/// systemd-analyze, from the system.
///
/// # Panics
/// When it is missing.
pub fn systemd_analyze() -> PathBuf {
    find("systemd-analyze", "by_systemd")
}

/// Java, from the system.
///
/// # Panics
/// When it is missing.
pub fn java() -> PathBuf {
    find("java", "by_java")
}

/// The client of docs/clients/go, as `tests/run` has built it.
///
/// # Panics
/// When it is missing.
pub fn go_client() -> PathBuf {
    find("go-client", "by_go")
}

/// The folder in which npm has installed what `tests/e2e/browser/package.json` names.
///
/// # Panics
/// When it is missing.
pub fn browser_modules() -> PathBuf {
    let folder = installed().join("browser");
    let modules = folder.join("node_modules/playwright-core");
    assert!(modules.exists(), "{} is missing: {}", modules.display(), advice("by_playwright"));
    folder
}

/// A Python that can import grpc and its reflection, h2, websockets and opentelemetry.proto.
///
/// # Panics
/// When it is missing.
pub fn python() -> PathBuf {
    let python = installed().join("python/bin/python");
    assert!(python.exists(), "{} is missing: {}", python.display(), advice("by_python"));
    python
}

/// `PATH` with the tools that `tests/run` installed in front.
pub fn path() -> String {
    let system = std::env::var("PATH").unwrap_or_default();
    // Where Debian has servers, which not everybody has in the path.
    format!("{}:{system}:/usr/sbin", installed().join("bin").display())
}

/// Whether there are etcd and etcdctl.
pub fn has_etcd() -> bool {
    ["etcd", "etcdctl"].into_iter().all(|name| look_for(name).is_some())
}

fn find(name: &str, tests: &str) -> PathBuf {
    look_for(name).unwrap_or_else(|| panic!("{name} is not installed: {}", advice(tests)))
}

fn look_for(name: &str) -> Option<PathBuf> {
    let path = path();
    let mut candidates = path.split(':').map(|directory| Path::new(directory).join(name));
    candidates.find(|candidate| candidate.is_file())
}

fn installed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools")
}

fn advice(tests: &str) -> String {
    format!("run tests/run, which installs it, or leave these tests out with `-- --skip {tests}`")
}

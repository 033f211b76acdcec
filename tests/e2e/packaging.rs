//! What deploy/ holds beside metrics: units, images, manifests, examples. Each file is read by what it is for, and says nothing that
//! the programs do not know.

mod images;
mod many;
mod secured;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clap::{ArgAction, CommandFactory, Parser};
use gateway_tests::{binaries, command, tools};
use serde_json::{Value, json};

/// Of a data plane, beside what flags give it: the last reports.
const FAREWELL: Duration = Duration::from_secs(5);

/// Of the manifests.
const NAMESPACE: &str = "gateway";
const COMPOSE: [&str; 2] = ["deploy/docker/compose.yaml", "deploy/docker/compose.etcd.yaml"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files below a folder of the repository, by their paths from its root.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in root().join(&folder).read_dir().unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[test]
fn every_file_of_deploy_is_read_by_some_test() {
    let read = |path: &str| {
        let (folder, name) = path.rsplit_once('/').unwrap();
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        match folder {
            "deploy" => ["build", "release"].contains(&name),
            "deploy/prometheus" => extension == "yaml",
            _ if folder.starts_with("deploy/kubernetes") => extension == "yaml",
            "deploy/grafana" => extension == "json",
            "deploy/logrotate" => name == "gateway",
            "deploy/systemd" => ["service", "socket", "env"].contains(&extension),
            "deploy/docker" => name == "Dockerfile" || name == "healthy" || COMPOSE.contains(&path),
            "deploy/examples" | "deploy/examples/policies" => extension == "toml",
            _ => false,
        }
    };
    let unread: Vec<_> = files("deploy").into_iter().filter(|path| !read(path)).collect();
    assert!(unread.is_empty(), "no test reads {unread:?}");
}

fn variables(program: &clap::Command) -> BTreeSet<String> {
    program.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned())).collect()
}

#[test]
fn every_setting_that_is_named_in_deploy_is_one_of_the_programs() {
    let control = variables(&control_plane::Program::command());
    let data = variables(&data_plane::Program::command());
    assert!(control.contains("GW_STORE") && data.contains("GW_PROXY_LISTEN"));
    let known: BTreeSet<_> = control.union(&data).cloned().collect();
    let mut named = 0;
    for path in files("deploy") {
        let text = read(&path);
        let words = text.split(|char: char| !(char.is_ascii_uppercase() || char == '_'));
        for word in words.filter(|word| word.starts_with("GW_")) {
            named += 1;
            assert!(known.contains(word), "{path} names {word}, which is no setting");
            let own = match path.as_str() {
                "deploy/systemd/control-plane.env" | "deploy/systemd/gw-control-plane.service" => &control,
                "deploy/systemd/data-plane.env" | "deploy/systemd/gw-data-plane.service" => &data,
                _ => &known,
            };
            assert!(own.contains(word), "{path} names {word}, which is another program's");
        }
    }
    assert!(named > 40, "{named}");
}

#[test]
fn the_log_that_is_rotated_is_in_the_units_folder_and_its_reload_opens_it_anew() {
    let (unit, rotated) = (read("deploy/systemd/gw-data-plane.service"), read("deploy/logrotate/gateway"));
    let of_unit = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key));
    let folder = format!("/var/log/{}/", of_unit("LogsDirectory=").unwrap());
    assert!(rotated.lines().any(|line| line.starts_with(&folder) && line.ends_with(" {")), "{rotated}");
    assert!(of_unit("ExecReload=").unwrap().contains("kill -HUP"));
    assert!(rotated.contains("    postrotate\n        systemctl reload gw-data-plane\n    endscript\n"));
}

/// Has a program check these settings, with paths that only the machine has replaced; yields what would run.
async fn checked(mut program: Command, settings: &BTreeMap<String, String>, whose: &str) -> Value {
    if settings.get("GW_STORE").is_some_and(|store| store.starts_with("etcd:")) {
        return valid_on_etcd(settings, whose);
    }
    let folder = tempfile::tempdir().unwrap();
    let here = format!("{}/", folder.path().display());
    for (name, value) in settings {
        let value = ["/var/lib/gateway-control-plane/", "/var/lib/gateway/", "/var/log/gateway/"]
            .iter()
            .fold(value.clone(), |value, place| value.replace(place, &here));
        program.env(name, value);
    }
    program.arg("--check");
    let finished = command::run(program).await;
    assert_eq!(finished.code(), 0, "{whose}: {settings:?}: {}", finished.stderr);
    let said: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(said["valid"], true, "{said}");
    said
}

/// The same of a control plane on an etcd that is not here, to which its own check would connect.
fn valid_on_etcd(settings: &BTreeMap<String, String>, whose: &str) -> Value {
    let command = control_plane::Program::command();
    let flag = |(name, value): (&String, &String)| {
        let arg = command.get_arguments().find(|arg| arg.get_env() == Some(OsStr::new(name)))?;
        let long = arg.get_long()?;
        match arg.get_action() {
            ArgAction::SetTrue => (value == "true").then(|| format!("--{long}")),
            _ => Some(format!("--{long}={value}")),
        }
    };
    let flags = std::iter::once(whose.to_owned()).chain(settings.iter().filter_map(flag));
    let program = control_plane::Program::try_parse_from(flags);
    let program = program.unwrap_or_else(|error| panic!("{whose}: {settings:?}: {error}"));
    let config = program.args.validate();
    let config = config.unwrap_or_else(|error| panic!("{whose}: {settings:?}: {error}"));
    json!({ "listen": config.listen.expect("it listens at a port").to_string() })
}

fn program(name: &str) -> Command {
    if name.contains("control-plane") { binaries::control_plane() } else { binaries::data_plane() }
}

/// A unit's settings: `KEY=VALUE` of a section, in their order.
fn unit(path: &str) -> Vec<(String, String)> {
    let text = read(path);
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.into(), value.into())).collect()
}

fn only<'a>(unit: &'a [(String, String)], key: &str) -> &'a str {
    let mut found = unit.iter().filter(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let value = found.next().unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(found.next(), None, "{key} twice");
    value
}

fn seconds(text: &str) -> Duration {
    humantime::parse_duration(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Whoever kills must wait for longer than an orderly end takes.
fn assert_leaves_time(whose: &str, given: Duration, settings: &BTreeMap<String, String>) {
    let needed = if whose.contains("control-plane") {
        Duration::from_secs(15)
    } else {
        let of = |name: &str, default: &str| seconds(settings.get(name).map_or(default, String::as_str));
        of("GW_DRAIN_DELAY", "0s") + of("GW_DRAIN_TIMEOUT", "30s") + FAREWELL
    };
    assert!(given > needed, "{whose} is killed after {given:?}, and may need {needed:?}");
}

#[tokio::test]
async fn units_start_the_programs_with_settings_that_they_take_and_wait_for_their_end() {
    for name in ["control-plane", "data-plane"] {
        let service = unit(&format!("deploy/systemd/gw-{name}.service"));
        assert_eq!(only(&service, "ExecStart"), format!("/usr/bin/gw-{name}"));
        assert_eq!(only(&service, "EnvironmentFile"), format!("-/etc/gateway/{name}.env"));
        let mut settings: BTreeMap<String, String> = only(&service, "Environment")
            .split_whitespace()
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let example = read(&format!("deploy/systemd/{name}.env"));
        // Also what is commented out, but for files that are not there.
        let lines =
            example.lines().map(|line| line.trim_start_matches('#')).filter(|line| line.starts_with("GW_"));
        for (name, value) in
            lines.map(|line| line.split_once('=').unwrap()).filter(|(name, _)| !name.starts_with("GW_TLS"))
        {
            settings.insert(name.to_owned(), value.to_owned());
        }
        checked(program(name), &settings, name).await;
        let stop = only(&service, "TimeoutStopSec").trim_end_matches('s');
        assert_leaves_time(name, Duration::from_secs(stop.parse().unwrap()), &settings);
    }
    // Names by which sockets are taken.
    assert_eq!(only(&unit("deploy/systemd/gw-data-plane.socket"), "FileDescriptorName"), "http");
    assert_eq!(only(&unit("deploy/systemd/gw-data-plane-tls.socket"), "FileDescriptorName"), "https");
}

#[tokio::test]
async fn units_are_valid_and_leave_the_programs_little_to_do_harm_with_by_systemd() {
    let folder = tempfile::tempdir().unwrap();
    let mut services = Vec::new();
    let mut verify = Command::new(tools::systemd_analyze());
    verify.args(["verify", "--man=no", "--recursive-errors=no"]);
    for path in files("deploy/systemd").into_iter().filter(|path| !path.ends_with(".env")) {
        // Which programs there are is not what is asked.
        let text = read(&path).replace("/usr/bin/gw-", "/bin/true gw-");
        let copy = folder.path().join(path.rsplit_once('/').unwrap().1);
        fs::write(&copy, text).unwrap();
        if path.ends_with(".service") {
            services.push(copy.clone());
        }
        verify.arg(copy);
    }
    let verified = command::run(verify).await;
    assert_eq!((verified.code(), verified.stderr.as_str()), (0, ""), "{}", verified.stdout);
    for service in services {
        let mut security = Command::new(tools::systemd_analyze());
        // Tenths of its scale from 0.0, safe, to 10.0.
        security.args(["security", "--offline=yes", "--no-pager", "--threshold=20"]).arg(&service);
        let judged = command::run(security).await;
        assert_eq!(judged.code(), 0, "{}: {}{}", service.display(), judged.stdout, judged.stderr);
    }
}

/// What kustomize makes of a folder, each held to the schema of its kind.
async fn built(folder: &str) -> Vec<Value> {
    let mut kustomize = Command::new(tools::kustomize());
    kustomize.arg("build").arg(root().join(folder));
    let scratch = tempfile::tempdir().unwrap();
    let made = scratch.path().join("made.yaml");
    fs::write(&made, command::run(kustomize).await.success()).unwrap();
    python("manifests", &[made.display().to_string()]).await
}

async fn python(what: &str, paths: &[String]) -> Vec<Value> {
    let mut command = Command::new(tools::python());
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/python/deployed.py")).arg(what);
    command.args(paths.iter().map(|path| root().join(path)));
    match command::run(command).await.json() {
        Value::Array(documents) => documents,
        other => panic!("{other}"),
    }
}

/// Settings of a list such as `[{name: …, value: …}]` for a pod of this name. `$(NAME)` stands for what was set before.
fn environment(container: &Value, pod: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for entry in container["env"].as_array().unwrap() {
        let value = match entry["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("metadata.name") => pod,
            Some("metadata.namespace") => NAMESPACE,
            Some(other) => panic!("{other}"),
            None => entry["value"].as_str().unwrap(),
        };
        let expand =
            |value: String, (name, set): (&String, &String)| value.replace(&format!("$({name})"), set);
        let value = settings.iter().fold(value.to_owned(), expand);
        settings.insert(entry["name"].as_str().unwrap().to_owned(), value);
    }
    settings
}

#[tokio::test]
async fn manifests_hold_to_their_schemas_and_their_settings_are_taken_by_python() {
    let paths: Vec<String> = files("deploy/kubernetes");
    let documents = python("manifests", &paths).await;
    let of = |kind: &str| documents.iter().filter(|document| document["kind"] == kind).collect::<Vec<_>>();
    let resources: BTreeSet<String> = of("Kustomization")[0]["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| format!("deploy/kubernetes/{}", name.as_str().unwrap()))
        .collect();
    let others = paths.iter().filter(|path| !path.ends_with("/kustomization.yaml")).cloned();
    assert_eq!(resources, others.collect());

    assert_deployable(&documents, &Secrets::new()).await;
}

/// Of each, what is under its keys.
type Secrets = BTreeMap<&'static str, BTreeMap<&'static str, String>>;

/// Lays out what a container has of Secrets, each file below this folder as it is below `/`.
fn mount(folder: &Path, pod: &Value, container: &Value, secrets: &Secrets) {
    for mount in container["volumeMounts"].as_array().unwrap() {
        let mut volumes = pod["volumes"].as_array().into_iter().flatten();
        let Some(volume) = volumes.find(|volume| volume["name"] == mount["name"]) else { continue };
        let place = folder.join(mount["mountPath"].as_str().unwrap().trim_start_matches('/'));
        let projected = volume["projected"]["sources"].as_array().into_iter().flatten();
        for source in std::iter::once(&volume["secret"]).chain(projected.map(|source| &source["secret"])) {
            let Some(name) = source.get("secretName").or(source.get("name")) else { continue };
            let secret = &secrets[name.as_str().unwrap()];
            let items: BTreeMap<&str, &str> = match source["items"].as_array() {
                Some(items) => items
                    .iter()
                    .map(|item| (item["key"].as_str().unwrap(), item["path"].as_str().unwrap()))
                    .collect(),
                None => secret.keys().map(|key| (*key, *key)).collect(),
            };
            fs::create_dir_all(&place).unwrap();
            for (key, path) in items {
                fs::write(place.join(path), &secret[key]).unwrap();
            }
        }
    }
}

/// Asserts that both planes run by settings that they take, as the namespace demands it, and that selectors select something.
async fn assert_deployable(documents: &[Value], secrets: &Secrets) {
    let of = |kind: &str| documents.iter().filter(|document| document["kind"] == kind).collect::<Vec<_>>();
    let workloads: Vec<_> = of("StatefulSet").into_iter().chain(of("Deployment")).collect();
    assert_eq!(workloads.len(), 2);
    for workload in workloads {
        let name = workload["metadata"]["name"].as_str().unwrap();
        let pod = &workload["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let mut settings = environment(container, &format!("{name}-0"));
        let files = tempfile::tempdir().unwrap();
        mount(files.path(), pod, container, secrets);
        for value in settings.values_mut().filter(|value| value.starts_with("/etc/gateway/")) {
            *value = format!("{}{value}", files.path().display());
            assert!(Path::new(value).exists(), "{name} has no {value}");
        }
        let said = checked(program(name), &settings, name).await;
        // The hook takes of the same time, before SIGTERM.
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        let hook = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap_or(0);
        assert_leaves_time(name, Duration::from_secs(grace.saturating_sub(hook)), &settings);
        assert!(
            hook >= 20 || name.contains("control-plane"),
            "{name}: no load balancer notices within {hook} s"
        );
        // Probes ask ports that are served.
        let ports: BTreeSet<String> = container["ports"]
            .as_array()
            .unwrap()
            .iter()
            .map(|port| format!("0.0.0.0:{}", port["containerPort"]))
            .collect();
        let served = ["listen", "admin", "tls"].iter().filter_map(|key| said[*key].as_str());
        let served = served.filter(|place| !place.starts_with("127.")).map(str::to_owned);
        assert_eq!(ports, served.collect(), "{name}");
        let is_encrypted = ["GW_CONTROL_TLS_CERT", "GW_ADMIN_TLS_CERTIFICATE"]
            .iter()
            .any(|name| settings.contains_key(*name));
        assert_ne!(is_encrypted, settings.contains_key("GW_INSECURE"), "{name}");
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let asked = &container[probe]["httpGet"];
            assert_eq!(asked["path"], if probe == "readinessProbe" { "/readyz" } else { "/livez" }, "{name}");
            assert_eq!(asked["scheme"] == "HTTPS", is_encrypted, "{name}: {probe}");
        }
        // As the namespace demands it of every pod.
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(pod["automountServiceAccountToken"], false);
    }
    // Selectors select something: labels of pods, or of services.
    let labels: Vec<&Value> = documents
        .iter()
        .flat_map(|document| {
            [&document["metadata"]["labels"], &document["spec"]["template"]["metadata"]["labels"]]
        })
        .collect();
    for document in of("Service").into_iter().chain(of("PodDisruptionBudget")).chain(of("ServiceMonitor")) {
        let selector = &document["spec"]["selector"];
        let selector = selector.get("matchLabels").unwrap_or(selector).as_object().unwrap();
        let selects = |labels: &&&Value| selector.iter().all(|(name, value)| labels.get(name) == Some(value));
        assert!(labels.iter().any(|labels| selects(&labels)), "{document} selects nothing");
    }
    assert_ports_are_there(documents);
}

/// Asserts that ports which services and network policies name are some container's.
fn assert_ports_are_there(documents: &[Value]) {
    let lists = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let pods = documents.iter().map(|document| &document["spec"]["template"]["spec"]);
    let containers = pods.flat_map(|pod| lists(&pod["containers"]));
    let there: Vec<Value> = containers
        .flat_map(|container| lists(&container["ports"]))
        .map(|port| port["name"].clone())
        .collect();
    let mut named = Vec::new();
    for document in documents {
        let spec = &document["spec"];
        named.extend(lists(&spec["ports"]).iter().map(|port| port["targetPort"].clone()));
        for rule in lists(&spec["ingress"]).iter().chain(&lists(&spec["egress"])) {
            named.extend(lists(&rule["ports"]).iter().map(|port| port["port"].clone()));
        }
    }
    assert!(named.len() > 5, "{named:?}");
    for port in named.iter().filter(|port| port.is_string()) {
        assert!(there.contains(port), "{port} of {there:?}");
    }
}

#[tokio::test]
async fn examples_are_taken_by_the_programs_that_they_are_for() {
    let examples = files("deploy/examples");
    let mut static_file = binaries::data_plane();
    static_file.args(["--check", "--static"]).arg(root().join("deploy/examples/services.toml"));
    let said = command::run(static_file).await.json();
    assert_eq!(said["registry"], "static, services: 2, routes: 0");
    let mut policies = binaries::gwctl();
    policies.args(["policy", "validate", "-f"]).arg(root().join("deploy/examples/policies"));
    let finished = command::run(policies).await;
    assert_eq!(finished.code(), 0, "{}", finished.stderr);
    assert_eq!(examples.len(), 3, "another example than {examples:?} is to be read here");
}

#[tokio::test]
async fn every_dependency_has_a_licence_that_is_let_in_by_python() {
    // Of what is built here: a crate for another system may not have been downloaded.
    let host = Command::new("rustc").arg("-vV").output().unwrap().stdout;
    let host = String::from_utf8(host).unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &host])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.json");
    fs::write(&path, metadata.stdout).unwrap();
    let mut python = Command::new("sh");
    python.args(["-c", "exec \"$0\" \"$1\" licences \"$2\" <\"$3\""]).arg(tools::python());
    python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/python/deployed.py"));
    python.arg(root().join(".cargo/deny.toml")).arg(path);
    let refused = command::run(python).await.success();
    assert_eq!(refused, "", "not in the allow list of .cargo/deny.toml");
}

#[test]
fn every_dependency_is_from_the_registry() {
    let lock = read("Cargo.lock");
    let sources: BTreeSet<_> = lock.lines().filter_map(|line| line.strip_prefix("source = \"")).collect();
    assert!(
        sources.iter().all(|source| source.starts_with("registry+")) && sources.len() == 1,
        "{sources:?}"
    );
}

#[tokio::test]
async fn scripts_that_build_what_is_shipped_say_how_they_are_called() {
    for script in ["deploy/build", "deploy/release"] {
        let mut bash = Command::new("bash");
        bash.arg("-n").arg(root().join(script));
        command::run(bash).await.success();
        let mut usage = Command::new(root().join(script));
        usage.arg("--nonsense");
        let finished = command::run(usage).await;
        assert_eq!(finished.code(), 2);
        assert!(finished.stdout.contains(script), "{}", finished.stdout);
    }
}

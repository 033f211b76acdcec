//! Images and the compose files that run them.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use gateway_tests::{Authority, ControlPlane, Process, authority::server, binaries, command, tools};
use serde_json::Value;

use super::{COMPOSE, assert_leaves_time, checked, program, python, read, root, seconds};

/// Instructions of a Dockerfile, with their continuations, without comments.
fn instructions(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let lines = joined.lines().filter_map(|line| line.trim().split_once(' '));
    lines
        .map(|(word, rest)| (word.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect()
}

/// Of each stage of the Dockerfile, what `ENV` sets.
fn stages() -> BTreeMap<String, BTreeMap<String, String>> {
    let mut stages: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut current = String::new();
    for (word, rest) in instructions(&read("deploy/docker/Dockerfile")) {
        match word.as_str() {
            "FROM" => {
                let (from, name) = rest.split_once(" AS ").expect("every stage has a name");
                let inherited = stages.get(from).cloned().unwrap_or_default();
                current = name.to_owned();
                stages.insert(current.clone(), inherited);
            }
            "ENV" => {
                let pairs = rest.split(' ').map(|pair| pair.split_once('=').unwrap());
                let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
                stages.get_mut(&current).unwrap().extend(pairs);
            }
            _ => {}
        }
    }
    stages
}

#[tokio::test]
async fn images_run_the_programs_with_settings_that_they_take() {
    let text = read("deploy/docker/Dockerfile");
    let instructions = instructions(&text);
    let entries = instructions.iter().filter(|(word, _)| word == "ENTRYPOINT").map(|(_, rest)| rest.as_str());
    let entries: Vec<_> = entries.collect();
    assert_eq!(entries, ["[\"gw-control-plane\"]", "[\"gw-data-plane\"]", "[\"gwctl\"]"]);
    assert!(instructions.contains(&("USER".into(), "65532:65532".into())), "not as root");
    for asked in ["\"GW_LISTEN\", \"127.0.0.1:7400\"", "\"GW_ADMIN_LISTEN\", \"127.0.0.1:7401\""] {
        let is_asked = |(word, rest): &(String, String)| word == "HEALTHCHECK" && rest.contains(asked);
        assert!(instructions.iter().any(is_asked), "{asked}");
    }
    for (name, settings) in stages().into_iter().filter(|(name, _)| name.ends_with("-plane")) {
        let said = checked(program(&name), &settings, &name).await;
        // Whoever reaches the control plane may do everything until it is told who may what: so it is for its host to open.
        let beginning = if name == "control-plane" { "127.0.0.1:" } else { "0.0.0.0:" };
        assert!(said["listen"].as_str().unwrap().starts_with(beginning), "{name}");
    }
    // What is copied from the repository is there, and is not kept from the build.
    let ignored = read(".dockerignore");
    for (_, rest) in instructions.iter().filter(|(word, rest)| word == "COPY" && !rest.starts_with("--from"))
    {
        let source = rest.split(' ').next().unwrap();
        assert!(root().join(source).exists(), "{source}");
    }
    for member in ["proto", "runtime", "control-plane", "data-plane", "cli", "tests", "deploy/docker"] {
        assert!(ignored.lines().any(|line| line == format!("!{member}")), "the build needs {member}");
    }
}

#[tokio::test]
async fn the_dockerfile_is_as_a_linter_wants_it_by_python() {
    let mut hadolint = Command::new(tools::python().with_file_name("hadolint"));
    hadolint.arg(root().join("deploy/docker/Dockerfile"));
    let linted = command::run(hadolint).await;
    assert_eq!(linted.code(), 0, "{}{}", linted.stdout, linted.stderr);
}

#[tokio::test]
async fn compose_files_refer_to_what_there_is_by_python() {
    for compose in python("yaml", &COMPOSE.map(str::to_owned)).await {
        assert_composed(&compose).await;
    }
}

async fn assert_composed(compose: &Value) {
    let (services, stages) = (compose["services"].as_object().unwrap(), stages());
    let mut published = BTreeSet::new();
    for (name, service) in services {
        let known = [
            "build",
            "cap_drop",
            "command",
            "depends_on",
            "deploy",
            "entrypoint",
            "environment",
            "healthcheck",
            "image",
            "mem_limit",
            "ports",
            "profiles",
            "read_only",
            "restart",
            "security_opt",
            "stop_grace_period",
            "ulimits",
            "volumes",
        ];
        for key in service.as_object().unwrap().keys() {
            assert!(known.contains(&key.as_str()), "{name}: {key}");
        }
        for other in service["depends_on"].as_object().into_iter().flat_map(|others| others.keys()) {
            assert!(services.contains_key(other), "{name} depends on {other}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            let is_there = match source.starts_with('.') {
                true => root().join("deploy/docker").join(source).exists(),
                false => compose["volumes"].get(source).is_some(),
            };
            assert!(is_there, "{name}: {source}");
        }
        for port in service["ports"].as_array().into_iter().flatten() {
            let port = port.as_str().unwrap();
            assert!(published.insert(port.rsplit_once(':').unwrap().0.to_owned()), "{name}: {port} twice");
        }
        let Some(target) = service["build"]["target"].as_str() else { continue };
        let mut settings = stages.get(target).unwrap_or_else(|| panic!("{name}: no stage {target}")).clone();
        if target == "gwctl" {
            continue;
        }
        let given = service["environment"].as_object().into_iter().flatten();
        settings.extend(given.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())));
        checked(program(target), &settings, name).await;
        let grace = seconds(service["stop_grace_period"].as_str().unwrap());
        assert_leaves_time(target, grace, &settings);
    }
}

#[tokio::test]
async fn a_container_is_healthy_while_its_program_lives_by_the_address_that_it_is_told_and_in_tls() {
    let healthy = async |place: String| {
        let mut command = Command::new("bash");
        command.arg(root().join("deploy/docker/healthy")).args(["GW_PLACE", "127.0.0.1:1"]);
        command::run({
            command.env("GW_PLACE", place);
            command
        })
        .await
        .code()
    };
    // It has heard from no control plane, so it is not ready, and a start would not help it.
    let mut nowhere = binaries::data_plane();
    nowhere.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--no-cache"]);
    nowhere.args(["--control-plane", "http://127.0.0.1:1"]);
    let mut unready = Process::spawn("data-plane", &mut nowhere);
    let admin = unready.ready().await["admin"].as_str().unwrap().to_owned();
    let port = admin.rsplit_once(':').unwrap().1;
    for place in [&admin, &format!("0.0.0.0:{port}"), &format!("unix:///nowhere,[::]:{port}")] {
        assert_eq!(healthy(place.clone()).await, 0, "{place}");
    }
    unready.kill();
    assert_ne!(healthy(admin).await, 0, "nobody listens");
    assert_ne!(healthy(String::new()).await, 0, "nobody listens by default");

    let authority = Authority::new("ours");
    authority.sign("control", server(&["127.0.0.1"]));
    let (certificate, key) = (authority.path("control.pem"), authority.path("control.key"));
    let socket = format!("unix://{}", authority.path("control.sock"));
    let flags = ["--tls-cert", &certificate, "--tls-key", &key];
    let store = authority.folder().join("registry.redb");
    let control = ControlPlane::start_with(&store, &flags).await;
    assert_eq!(healthy(control.address().to_string()).await, 0, "it speaks TLS");
    assert_ne!(healthy(socket.clone()).await, 0, "there is no such socket");
    let _socket = std::os::unix::net::UnixListener::bind(socket.trim_start_matches("unix://")).unwrap();
    assert_eq!(healthy(socket).await, 0);
}

//! The manifests in TLS: every plane and Prometheus has what it takes to be believed and to be let in, and nothing is in clear text.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use gateway_tests::{Authority, authority::server, binaries, command};
use serde_json::Value;

use super::{Secrets, assert_deployable, built, many, read};

fn all<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

/// Whether a name is one of a certificate's.
fn covers(names: &BTreeSet<&str>, name: &str) -> bool {
    let any_first = name.split_once('.').map(|(_, rest)| format!("*.{rest}"));
    names.contains(name) || any_first.is_some_and(|any| names.contains(any.as_str()))
}

/// Secrets as cert-manager makes them of these manifests, and as the page on them says.
async fn secrets(documents: &[Value]) -> Secrets {
    let authority = Authority::new("ours");
    let text = |path: String| fs::read_to_string(path).unwrap();
    let signed = |names: &[&str]| {
        authority.sign("own", server(names));
        let of = |name: &str| text(authority.path(name));
        BTreeMap::from([("tls.crt", of("own.pem")), ("tls.key", of("own.key")), ("ca.crt", of("ca.pem"))])
    };
    let mut secrets = Secrets::from([("gateway-tls", signed(&["shop.example"]))]);
    for name in ["gateway-control-plane-tls", "gateway-data-plane-tls"] {
        let names: Vec<_> = names(documents, name).into_iter().collect();
        secrets.insert(name, signed(&names));
    }
    let page = read("docs/deploy.md");
    let (mut entries, mut tokens) = (String::new(), BTreeMap::new());
    for line in page.lines().filter(|line| line.starts_with("gwctl auth token ")) {
        let (words, into) = line.split_once('>').unwrap();
        let words: Vec<_> = words.split_whitespace().map(|word| word.trim_matches('\'')).collect();
        let mut gwctl = binaries::gwctl();
        gwctl.args(&words[1..]).current_dir(authority.folder());
        let entry = command::run(gwctl).await.success();
        entries += if into.contains("auth.toml") { entry.as_str() } else { "" };
        tokens.insert(words[3].to_owned(), text(authority.path(&format!("{}.token", words[3]))));
    }
    secrets.insert("gateway-auth", BTreeMap::from([("auth.toml", entries)]));
    let shown = ["data-plane", "monitor", "admin", "peers"].map(|name| (name, tokens[name].clone()));
    secrets.insert("gateway-tokens", BTreeMap::from(shown));
    // As the page hands them over.
    for key in secrets["gateway-tokens"].keys() {
        assert!(page.contains(&format!("--from-file={key}={key}.token")), "{key}");
    }
    secrets
}

/// By which the certificate of this Secret is valid.
fn names<'a>(documents: &'a [Value], secret: &str) -> BTreeSet<&'a str> {
    let certificates = all(documents, "Certificate");
    let made = certificates.iter().find(|document| document["spec"]["secretName"] == secret);
    let names =
        made.unwrap_or_else(|| panic!("nobody makes {secret}"))["spec"]["dnsNames"].as_array().unwrap();
    names.iter().map(|name| name.as_str().unwrap()).collect()
}

async fn assert_secured(documents: &[Value], secrets: &Secrets) {
    assert_deployable(documents, secrets).await;
    let text = serde_json::to_string(documents).unwrap();
    assert!(!text.contains("GW_INSECURE") && !text.contains("http://gateway") && !text.contains("h2c"));

    // Planes go by names that the control plane's certificate has.
    let control = names(documents, "gateway-control-plane-tls");
    let follower = &all(documents, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
    let urls = super::environment(follower, "gateway-data-plane-0")["GW_CONTROL_PLANE"].clone();
    for url in urls.split(',') {
        let host = url.strip_prefix("https://").unwrap().rsplit_once(':').unwrap().0;
        assert!(covers(&control, host), "{host} of {control:?}");
    }

    // So does Prometheus, which shows each plane its token.
    let monitors = all(documents, "ServiceMonitor");
    assert_eq!(monitors.len(), 2);
    for monitor in monitors {
        let endpoint = &monitor["spec"]["endpoints"][0];
        let (ca, shown) = (&endpoint["tlsConfig"]["ca"]["secret"], &endpoint["authorization"]["credentials"]);
        let name = ca["name"].as_str().unwrap();
        assert!(covers(&names(documents, name), endpoint["tlsConfig"]["serverName"].as_str().unwrap()));
        assert_eq!((&endpoint["scheme"], &ca["key"]), (&"https".into(), &"ca.crt".into()));
        let of_planes = if name.contains("control-plane") { "monitor" } else { "admin" };
        assert_eq!((&shown["name"], &shown["key"]), (&"gateway-tokens".into(), &of_planes.into()));
    }

    // Clients come in TLS or not at all.
    let services = all(documents, "Service");
    let public = services.iter().find(|service| service["metadata"]["name"] == "gateway").unwrap();
    let ports = public["spec"]["ports"].as_array().unwrap();
    assert_eq!((ports.len(), &ports[0]["port"], &ports[0]["targetPort"]), (1, &443.into(), &"https".into()));
}

/// "Memory at worst" of docs/limits.md, with flags that are not set at their defaults.
#[tokio::test]
async fn no_single_address_may_take_all_memory_of_a_data_plane_by_kustomize() {
    let documents = built("deploy/kubernetes-tls").await;
    let container = &all(&documents, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
    let settings = super::environment(container, "gateway-data-plane-0");
    let number = |name: &str| settings[name].parse::<u64>().unwrap();
    let stream = (250 + 64) << 10;
    let connection = (1 << 20) + number("GW_PROXY_MAX_STREAMS") * stream;
    let address = number("GW_PROXY_MAX_CONNECTIONS_PER_ADDRESS") * connection;
    let bodies =
        settings["GW_PROXY_REPLAY_MEMORY"].strip_suffix("MiB").unwrap().parse::<u64>().unwrap() << 20;
    let answers = 2 * (64 << 20);
    let limit = container["resources"]["limits"]["memory"].as_str().unwrap();
    let limit = limit.strip_suffix("Gi").unwrap().parse::<u64>().unwrap() << 30;
    // A quarter for the registry, buffers of sockets and the program itself.
    assert!(address + bodies + answers < limit / 4 * 3, "{address} + {bodies} + {answers} of {limit}");
}

#[tokio::test]
async fn manifests_in_tls_have_nothing_in_clear_text_and_ask_everybody_who_he_is_by_kustomize() {
    let documents = built("deploy/kubernetes-tls").await;
    assert_secured(&documents, &secrets(&documents).await).await;
}

#[tokio::test]
async fn manifests_of_many_control_planes_in_tls_have_them_follow_each_other_by_kustomize() {
    let documents = built("deploy/kubernetes-etcd-tls").await;
    let mut secrets = secrets(&documents).await;
    secrets.insert("gateway-etcd-client", secrets["gateway-data-plane-tls"].clone());
    assert_secured(&documents, &secrets).await;
    many::assert_many(&documents, "https");
    let control = &all(&documents, "StatefulSet")[0]["spec"]["template"]["spec"]["containers"][0];
    let settings = super::environment(control, "gateway-control-plane-0");
    let advertised = settings["GW_ADVERTISE"].rsplit_once(':').unwrap().0;
    assert!(covers(&names(&documents, "gateway-control-plane-tls"), advertised), "{advertised}");
    assert!(
        settings.contains_key("GW_PEER_CA") && settings.contains_key("GW_PEER_TOKEN_FILE"),
        "{settings:?}"
    );
}

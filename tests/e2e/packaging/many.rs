//! Several control planes on an etcd, as deploy/ has them: each is found under a name of its own, and whoever needs all of them is told
//! all of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{COMPOSE, NAMESPACE, Secrets, assert_deployable, built, environment, python};

/// Of a setting that lists: what stands between its commas.
fn listed<'a>(settings: &'a BTreeMap<String, String>, name: &str) -> BTreeSet<&'a str> {
    settings.get(name).unwrap_or_else(|| panic!("no {name}")).split(',').collect()
}

/// Asserts that a data plane follows each of those that say where they are, by that.
fn assert_follows_all(follower: &BTreeMap<String, String>, scheme: &str, advertised: &[String]) {
    let urls: Vec<_> = advertised.iter().map(|place| format!("{scheme}://{place}")).collect();
    assert_eq!(listed(follower, "GW_CONTROL_PLANE"), urls.iter().map(String::as_str).collect());
}

#[tokio::test]
async fn manifests_of_many_control_planes_name_each_of_them_and_the_etcd_that_they_have_in_common_by_kustomize()
 {
    let documents = built("deploy/kubernetes-etcd").await;
    let keys = ["ca.crt", "tls.crt", "tls.key"].map(|key| (key, String::new()));
    assert_deployable(&documents, &Secrets::from([("gateway-etcd-client", BTreeMap::from(keys))])).await;
    assert_many(&documents, "http");
}

/// Asserts that data planes and control planes find each of the latter, by this scheme.
pub(super) fn assert_many(documents: &[Value], scheme: &str) {
    let find = |kind: &str, name: &str| -> &Value {
        let is_it = |document: &&Value| document["kind"] == kind && document["metadata"]["name"] == name;
        let document = documents.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"));
        assert_eq!(document["metadata"]["namespace"], NAMESPACE, "{kind} {name}");
        document
    };
    let control = find("StatefulSet", "gateway-control-plane");
    let (replicas, pod) =
        (control["spec"]["replicas"].as_u64().unwrap(), &control["spec"]["template"]["spec"]);
    assert!(replicas >= 2, "{replicas}");
    assert_eq!(control["spec"]["volumeClaimTemplates"], Value::Null, "nothing is kept beside etcd");

    // Each has a name, also while it is not ready, and data planes have all names.
    let peers = control["spec"]["serviceName"].as_str().unwrap();
    let service = &find("Service", peers)["spec"];
    assert_eq!((&service["clusterIP"], &service["publishNotReadyAddresses"]), (&"None".into(), &true.into()));
    let container = &pod["containers"][0];
    let pods: Vec<_> = (0..replicas).map(|number| format!("gateway-control-plane-{number}")).collect();
    let advertised: Vec<_> =
        pods.iter().map(|pod| environment(container, pod)["GW_ADVERTISE"].clone()).collect();
    let named: Vec<_> = pods.iter().map(|pod| format!("{pod}.{peers}.{NAMESPACE}.svc:7400")).collect();
    assert_eq!(advertised, named);
    let follower = &find("Deployment", "gateway-data-plane")["spec"]["template"]["spec"]["containers"][0];
    assert_follows_all(&environment(follower, "gateway-data-plane-7d9c5b6f4-x2x5k"), scheme, &advertised);
    // Who registers has others to go to.
    assert_ne!(find("Service", "gateway-control-plane")["spec"]["publishNotReadyAddresses"], true);

    // What etcd is shown, and by what it is believed, is a secret that the pod has.
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == "etcd-client").unwrap();
    let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == mount["name"]);
    assert_eq!(volume.unwrap()["secret"]["secretName"], "gateway-etcd-client");
    let settings = environment(container, &pods[0]);
    for (name, file) in
        [("GW_STORE_TLS_CA", "ca.crt"), ("GW_STORE_TLS_CERT", "tls.crt"), ("GW_STORE_TLS_KEY", "tls.key")]
    {
        assert_eq!(settings[name], format!("{}/{file}", mount["mountPath"].as_str().unwrap()));
    }

    // No node takes all of them away, and nobody takes two at once.
    let spread = pod["topologySpreadConstraints"].as_array().unwrap();
    let selected = &control["spec"]["selector"]["matchLabels"];
    assert!(spread.iter().any(|spread| spread["topologyKey"] == "kubernetes.io/hostname"));
    assert!(spread.iter().all(|spread| spread["labelSelector"]["matchLabels"] == *selected), "{spread:?}");
    let budget = &find("PodDisruptionBudget", "gateway-control-plane")["spec"];
    assert_eq!((&budget["maxUnavailable"], &budget["selector"]["matchLabels"]), (&1.into(), selected));

    // They reach each other, etcd, and who says where those are.
    let policy = &find("NetworkPolicy", "gateway-control-plane")["spec"];
    let from = policy["ingress"][0]["from"].as_array().unwrap();
    assert!(from.iter().any(|from| from["podSelector"]["matchLabels"] == *selected), "{from:?}");
    let ports =
        |rule: &Value| rule["ports"].as_array().unwrap().iter().map(|port| port["port"].clone()).collect();
    let egress: Vec<Vec<Value>> = policy["egress"].as_array().unwrap().iter().map(ports).collect();
    for port in [Value::from("grpc"), 2379.into(), 53.into()] {
        assert!(egress.iter().flatten().any(|open| *open == port), "{port} of {egress:?}");
    }
    let members = settings["GW_STORE"].strip_prefix("etcd://").unwrap().split_once('/').unwrap().0;
    assert!(members.split(',').count() >= 3 && members.split(',').all(|member| member.ends_with(":2379")));
}

#[tokio::test]
async fn containers_of_many_control_planes_name_each_of_them_and_every_member_of_etcd_by_python() {
    let compose = python("yaml", &[COMPOSE[1].to_owned()]).await.remove(0);
    let services = compose["services"].as_object().unwrap();
    let settings = |beginning: &str| -> Vec<(&String, BTreeMap<String, String>)> {
        let of = services.iter().filter(|(name, _)| name.starts_with(beginning));
        let read = |environment: &Value| serde_json::from_value(environment.clone()).unwrap();
        of.map(|(name, service)| (name, read(&service["environment"]))).collect()
    };
    let (members, controls) = (settings("etcd-"), settings("control-plane-"));
    assert_eq!((members.len(), controls.len()), (3, 2));
    let cluster: Vec<_> = members.iter().map(|(name, _)| format!("{name}=http://{name}:2380")).collect();
    for (name, member) in &members {
        assert_eq!(&member["ETCD_NAME"], *name);
        assert_eq!(member["ETCD_ADVERTISE_CLIENT_URLS"], format!("http://{name}:2379"));
        assert_eq!(member["ETCD_INITIAL_ADVERTISE_PEER_URLS"], format!("http://{name}:2380"));
        assert_eq!(listed(member, "ETCD_INITIAL_CLUSTER"), cluster.iter().map(String::as_str).collect());
    }
    let places: Vec<_> = members.iter().map(|(name, _)| format!("{name}:2379")).collect();
    for (name, control) in &controls {
        assert_eq!(control["GW_STORE"], format!("etcd://{}/gateway", places.join(",")));
        assert_eq!(control["GW_ADVERTISE"], format!("{name}:7400"));
    }
    let advertised: Vec<_> = controls.iter().map(|(_, control)| control["GW_ADVERTISE"].clone()).collect();
    let [(_, follower)] = &settings("data-plane")[..] else { panic!("one data plane") };
    assert_follows_all(follower, "http", &advertised);
}

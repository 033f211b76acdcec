//! Whether the control plane is there, takes changes, and can be understood.

use std::time::{Duration, SystemTime};

use gateway_proto::ControlPlaneUrl;
use http::StatusCode;

use super::{
    certificates::{lifetime, troubles},
    finding::{Finding, Outcome, told},
};
use crate::{control::Probed, endpoint::Endpoint, error::Error};

pub(super) const NAME: &str = "control-plane";

const CERTIFICATE: &str = "control-plane/certificate";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Ages are shown in seconds: clocks that differ by less do no harm. The server's clock comes in whole seconds.
const MAX_SKEW: Duration = Duration::from_secs(3);
/// Seconds in the mean until a group of changes is durable; a disk that is well takes a few milliseconds, an etcd tens of them.
const SLOW_STORE: f64 = 0.25;

/// What the answers to the probes mean.
pub(super) fn findings(
    endpoint: &Endpoint,
    (readyz, metrics, serving): (Result<Probed, Error>, Result<Probed, Error>, Result<bool, Error>),
    whoami: Result<Probed, Error>,
    shown: Option<SystemTime>,
    now: SystemTime,
) -> Vec<Finding> {
    let readyz = match readyz {
        Ok(readyz) => readyz,
        Err(error) => return vec![Finding::of_error("control-plane/reachable", error)],
    };
    let took = readyz.took.as_secs_f64() * 1000.0;
    let reached = format!("control plane is reachable ({endpoint}, {took:.1}ms)");
    let mut findings = vec![Finding::passed("control-plane/reachable", reached)];
    let metrics = metrics.ok().map(|metrics| metrics.text);
    findings.push(version(metrics.as_deref()));
    findings.extend(readiness(&readyz));
    findings.extend(metrics.as_deref().and_then(store));
    findings.extend(metrics.as_deref().and_then(auth_file));
    // What it shows to us is told by itself.
    let known = shown.map(|_| "listener");
    findings.extend(certificate(shown, now));
    findings.extend(metrics.iter().flat_map(|text| troubles(CERTIFICATE, NAME, text, known, now)));
    findings.push(health(serving));
    findings.extend(skew(&readyz, now));
    findings.extend(exposure(endpoint));
    findings.extend(access(endpoint, whoami));
    findings
}

fn version(metrics: Option<&str>) -> Finding {
    const ID: &str = "control-plane/version";
    match metrics.and_then(version_in) {
        Some(VERSION) => Finding::passed(ID, format!("versions match (gwctl and control plane {VERSION})")),
        Some(other) => Finding::warned(ID, format!("gwctl is {VERSION}, the control plane is {other}"))
            .hint("use the gwctl of the control plane's release"),
        None => Finding::warned(ID, "the control plane does not tell its version (GET /metrics)"),
    }
}

/// The version in `gateway_build_info{version="0.1.0"} 1`.
fn version_in(metrics: &str) -> Option<&str> {
    let line = metrics.lines().find(|line| line.starts_with("gateway_build_info{"))?;
    let (_, rest) = line.split_once("version=\"")?;
    rest.split_once('"').map(|(version, _)| version)
}

/// How long a group of changes takes to be durable, if any was: registrations and drains wait for that.
fn store(metrics: &str) -> Option<Finding> {
    const ID: &str = "control-plane/store";
    let value = |name: &str| {
        let lines = metrics.lines().filter_map(|line| line.strip_prefix("gateway_store_commit_seconds_"));
        lines.filter_map(|line| line.strip_prefix(name)).find_map(|value| value.trim().parse::<f64>().ok())
    };
    let (sum, count) = (value("sum ")?, value("count ")?);
    if count < 1.0 {
        return None;
    }
    let mean = sum / count;
    let told = format!("a change is durable after {:.1}ms in the mean, of {count} groups", mean * 1000.0);
    Some(match mean > SLOW_STORE {
        false => Finding::passed(ID, told),
        true => Finding::warned(ID, told)
            .because("registrations, drains and every other change wait for that")
            .hint("look at the disk of  --store,  or at etcd"),
    })
}

/// Whether it has an auth file by which it could not start again.
fn auth_file(metrics: &str) -> Option<Finding> {
    let is_unusable = metrics.lines().any(|line| line == "gateway_auth_file_unusable 1");
    is_unusable.then(|| {
        let told = "its auth file has changed and cannot be used: it goes by what the file said before";
        Finding::warned("control-plane/auth-file", told)
            .because("it does not start again as long as the file is like that")
            .hint("gwctl auth check FILE   says what is wrong, as its log does")
    })
}

/// What the gRPC health service says, by which load balancers and orchestrators go.
fn health(serving: Result<bool, Error>) -> Finding {
    const ID: &str = "control-plane/health";
    match serving {
        Ok(true) => Finding::passed(ID, "gRPC health service says SERVING"),
        Ok(false) => Finding::failed(ID, "gRPC health service says NOT_SERVING")
            .hint("look at the control plane's log"),
        Err(error) => Finding::warned(ID, format!("gRPC health service does not answer: {}", error.headline)),
    }
}

/// One finding for each line of the verbose answer.
fn readiness(readyz: &Probed) -> Vec<Finding> {
    const ID: &str = "control-plane/ready";
    let mut findings: Vec<_> = told(ID, &readyz.text)
        .map(|finding| match finding.outcome {
            Outcome::Passed => finding,
            _ => finding.hint("look at the control plane's log"),
        })
        .collect();
    if findings.is_empty() {
        let status = readyz.status;
        findings.push(match status {
            StatusCode::OK => Finding::passed(ID, "control plane is ready"),
            _ => Finding::failed(ID, format!("control plane is not ready (GET /readyz: {status})")),
        });
    }
    findings
}

fn skew(readyz: &Probed, now: SystemTime) -> Option<Finding> {
    let date = readyz.date?;
    let apart = now.duration_since(date).unwrap_or_else(|ahead| ahead.duration());
    (apart > MAX_SKEW).then(|| {
        let apart = apart.as_secs();
        Finding::warned(
            "control-plane/clock",
            format!("clocks differ by {apart}s here and at the control plane"),
        )
        .because("every age and every countdown that gwctl shows is off by that")
        .hint("synchronise both clocks")
    })
}

/// Whether callers are asked who they are. On one machine it is fine that they are not, and still to be known.
fn access(endpoint: &Endpoint, whoami: Result<Probed, Error>) -> Option<Finding> {
    const ID: &str = "control-plane/access";
    // One of an older version does not say.
    let told: serde_json::Value = serde_json::from_str(&whoami.ok()?.text).ok()?;
    if told["authentication"].as_bool()? {
        return Some(match told["name"].as_str() {
            Some(name) => Finding::passed(ID, format!("callers are asked who they are (you are {name})")),
            None => Finding::failed(ID, "the control plane does not know you")
                .because(told["detail"].as_str().unwrap_or_default())
                .hint("name a file with a token by  --token-file FILE,  or a certificate by  --cert-file  and  --key-file"),
        });
    }
    let who = match endpoint.url() {
        ControlPlaneUrl::Unix(_) => "whoever may use its socket",
        ControlPlaneUrl::Web(_) if endpoint.is_local() => "whoever is on that machine",
        ControlPlaneUrl::Web(_) => "whoever reaches it",
    };
    let open = Finding::warned(ID, format!("nobody is asked who he is: {who} may do everything"));
    Some(
        open.hint(
            "gwctl auth token  makes an entry for the control plane's --auth-file, see docs/security.md",
        ),
    )
}

/// Whether the certificate that the control plane shows is good for a while.
fn certificate(ends: Option<SystemTime>, now: SystemTime) -> Option<Finding> {
    let finding = lifetime(CERTIFICATE, "its certificate", ends?, now);
    Some(match finding.outcome {
        Outcome::Passed => finding,
        _ => finding
            .hint("replace the files of  --tls-cert  and  --tls-key:  they are read again without a restart"),
    })
}

/// Whoever reaches it is told its whole interface; that is a help on one machine, and for strangers on a network, too.
pub(super) fn reflection(endpoint: &Endpoint, is_open: bool) -> Option<Finding> {
    is_open.then(|| {
        let told = format!("gRPC reflection is served to whoever reaches {endpoint}");
        Finding::warned("control-plane/reflection", told)
            .because("a stranger is told every service and message that it understands")
            .hint("start it with  --auth-file  and without  --open-reflection,  see docs/security.md")
    })
}

/// Nothing is encrypted: that is fine on one machine only.
fn exposure(endpoint: &Endpoint) -> Option<Finding> {
    (endpoint.is_plain() && !endpoint.is_local()).then(|| {
        Finding::warned("control-plane/tls", "control plane has no TLS")
            .because(format!(
                "whoever is between here and {endpoint} can read tokens, and change what is said"
            ))
            .hint("start it with  --tls-cert  and  --tls-key,  see docs/security.md")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        endpoint::Origin,
        error::{Error, Exit},
    };

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn probed(text: &str) -> Probed {
        Probed {
            status: StatusCode::OK,
            text: text.into(),
            took: Duration::from_micros(1234),
            date: Some(now()),
        }
    }

    fn endpoint(url: &str) -> Endpoint {
        Endpoint::parse(url, Origin::Flag).unwrap()
    }

    fn build(version: &str) -> Probed {
        probed(&format!("# TYPE gateway_build info\ngateway_build_info{{version=\"{version}\"}} 1\n"))
    }

    fn known() -> Result<Probed, Error> {
        Ok(probed("{\"authentication\": true, \"name\": \"ana\"}"))
    }

    fn stranger() -> Result<Probed, Error> {
        Ok(probed("{\"authentication\": true, \"name\": null, \"detail\": \"the token has expired\"}"))
    }

    #[test]
    fn the_certificate_that_it_shows_is_told_of_with_what_to_do_when_it_ends_soon() {
        let told = |days: u64| certificate(Some(now() + Duration::from_secs(days * 86_400)), now()).unwrap();
        assert_eq!(told(90).description, "its certificate is good for 90 days");
        assert!(told(90).hints.is_empty());
        assert_eq!((told(3).outcome, told(3).hints.len()), (Outcome::Warned, 1));
        assert_eq!(certificate(None, now()), None);
    }

    #[test]
    fn where_nobody_is_asked_who_he_is_that_is_said_of_one_machine_and_of_a_network() {
        let open = || Ok(probed("{\"authentication\": false, \"name\": \"127.0.0.1\"}"));
        let told = |url: &str| access(&endpoint(url), open()).unwrap();
        assert!(told("http://127.0.0.1:1").description.contains("whoever is on that machine"));
        assert!(told("http://10.0.0.1:1").description.contains("whoever reaches it"));
        assert_eq!(told("http://10.0.0.1:1").outcome, Outcome::Warned);
        assert!(told("unix:///run/x.sock").description.contains("whoever may use its socket"));
        assert_eq!(access(&endpoint("http://a:1"), Ok(probed("404"))), None);
    }

    #[test]
    fn how_long_a_change_takes_to_be_durable_is_told_once_there_was_one() {
        let metrics = |sum: &str, count: u32| {
            format!(
                "# TYPE gateway_store_commit_seconds histogram\ngateway_store_commit_seconds_sum {sum}\ngateway_store_commit_seconds_count {count}\n"
            )
        };
        assert_eq!(store(&metrics("0.0", 0)), None);
        assert_eq!(store("nothing of it"), None);
        let quick = store(&metrics("0.004", 5)).unwrap();
        assert_eq!(quick.description, "a change is durable after 0.8ms in the mean, of 5 groups");
        assert_eq!(quick.outcome, Outcome::Passed);
        assert_eq!(store(&metrics("3.0", 10)).unwrap().outcome, Outcome::Warned);
    }

    #[test]
    fn an_auth_file_that_cannot_be_used_is_told_before_the_next_start() {
        assert_eq!(auth_file("gateway_auth_file_unusable 0\n"), None);
        assert_eq!(auth_file(""), None);
        assert_eq!(auth_file("a 1\ngateway_auth_file_unusable 1\n").unwrap().outcome, Outcome::Warned);
    }

    fn found(findings: &[Finding]) -> Vec<(Outcome, &str)> {
        findings.iter().map(|finding| (finding.outcome, finding.description.as_str())).collect()
    }

    #[test]
    fn a_good_control_plane_passes_every_check() {
        let readyz = probed("[+]store ok (revision 12, 3 replicas)\n[+]not draining\n");
        let findings = findings(
            &endpoint("http://127.0.0.1:7400"),
            (Ok(readyz), Ok(build(VERSION)), Ok(true)),
            known(),
            None,
            now(),
        );
        let same = format!("versions match (gwctl and control plane {VERSION})");
        assert_eq!(
            found(&findings),
            [
                (Outcome::Passed, "control plane is reachable (http://127.0.0.1:7400, 1.2ms)"),
                (Outcome::Passed, same.as_str()),
                (Outcome::Passed, "store ok (revision 12, 3 replicas)"),
                (Outcome::Passed, "not draining"),
                (Outcome::Passed, "gRPC health service says SERVING"),
                (Outcome::Passed, "callers are asked who they are (you are ana)"),
            ]
        );
    }

    #[test]
    fn one_that_takes_no_changes_is_of_another_version_and_lives_in_another_time_is_told_so() {
        let readyz = Probed {
            status: StatusCode::SERVICE_UNAVAILABLE,
            date: Some(now() + Duration::from_secs(90)),
            ..probed("[-]store unavailable (serving revision 12, changes are refused)\n[+]not draining\n")
        };
        let findings = findings(
            &endpoint("http://10.0.0.5:7400"),
            (Ok(readyz), Ok(build("9.9.9")), Ok(false)),
            stranger(),
            None,
            now(),
        );
        let versions = format!("gwctl is {VERSION}, the control plane is 9.9.9");
        assert_eq!(
            found(&findings)[1..],
            [
                (Outcome::Warned, versions.as_str()),
                (Outcome::Failed, "store unavailable (serving revision 12, changes are refused)"),
                (Outcome::Passed, "not draining"),
                (Outcome::Failed, "gRPC health service says NOT_SERVING"),
                (Outcome::Warned, "clocks differ by 90s here and at the control plane"),
                (Outcome::Warned, "control plane has no TLS"),
                (Outcome::Failed, "the control plane does not know you"),
            ]
        );
    }

    #[test]
    fn without_an_answer_nothing_else_is_claimed() {
        let error = Error::new(Exit::Unreachable, "did not answer within 10s").hint("give it more time");
        let findings = findings(
            &endpoint("http://[::1]:7400"),
            (Err(error), Ok(build(VERSION)), Ok(true)),
            known(),
            None,
            now(),
        );
        assert_eq!(found(&findings), [(Outcome::Failed, "did not answer within 10s")]);
        assert_eq!(findings[0].hints, ["give it more time"]);
    }

    #[test]
    fn a_status_alone_decides_where_there_are_no_lines() {
        let bare = Probed { status: StatusCode::NOT_FOUND, ..probed("nothing here\n") };
        let findings = readiness(&bare);
        assert_eq!(
            found(&findings),
            [(Outcome::Failed, "control plane is not ready (GET /readyz: 404 Not Found)")]
        );
    }

    #[test]
    fn reflection_for_strangers_is_told() {
        let endpoint = endpoint("https://control.example:1");
        assert_eq!(reflection(&endpoint, false), None);
        let finding = reflection(&endpoint, true).unwrap();
        assert_eq!(finding.outcome, Outcome::Warned);
        assert_eq!(
            finding.description,
            "gRPC reflection is served to whoever reaches https://control.example:1"
        );
    }

    #[test]
    fn only_loopback_may_do_without_tls() {
        for url in ["http://localhost:1", "http://127.0.0.9:1", "http://[::1]:1"] {
            assert_eq!(exposure(&endpoint(url)), None, "{url}");
        }
        assert!(exposure(&endpoint("http://control.example:1")).is_some());
    }
}

//! What deploy/ holds for Prometheus and Grafana: it asks for metrics that there are, and every alert says what to do.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use gateway_tests::{command, tools};
use serde_json::Value;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names of metrics in a text: words that begin as ours do, without what a histogram puts behind its name.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_of_word = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | ':');
    let words = text.split(|char| !is_of_word(char));
    let ours = ["gateway_", "grpc_server_", "process_"];
    // An outcome of requests, which is a label's value.
    let words = words.filter(|word| *word != "gateway_error");
    let names = words.filter(|word| ours.iter().any(|begin| word.starts_with(begin)));
    let bare = |name: &str| {
        let bare = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        bare.unwrap_or(name).to_owned()
    };
    names.map(bare).collect()
}

fn documented() -> BTreeSet<String> {
    let text = read("docs/metrics.md");
    let names = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    names.map(str::to_owned).collect()
}

/// Values behind a key of a YAML list, as `- key: value`.
fn values(text: &str, key: &str) -> Vec<String> {
    let key = format!("- {key}: ");
    text.lines().filter_map(|line| line.trim_start().strip_prefix(&key)).map(str::to_owned).collect()
}

#[test]
fn every_metric_that_rules_and_the_dashboard_name_is_documented() {
    let documented = documented();
    let files =
        ["deploy/prometheus/recording.yaml", "deploy/prometheus/alerts.yaml", "deploy/grafana/gateway.json"];
    for path in files {
        let named = metrics_in(&read(path));
        assert!(named.len() > 3, "{path}: {named:?}");
        let unknown: Vec<_> = named.difference(&documented).collect();
        assert!(unknown.is_empty(), "{path} names {unknown:?}, of which docs/metrics.md has no row");
    }
}

#[test]
fn every_series_that_is_asked_for_by_a_recorded_name_is_recorded() {
    let recorded: BTreeSet<_> =
        values(&read("deploy/prometheus/recording.yaml"), "record").into_iter().collect();
    let alerts = read("deploy/prometheus/alerts.yaml");
    let words = alerts.split(|char: char| !(char.is_ascii_alphanumeric() || matches!(char, '_' | ':')));
    let asked: BTreeSet<_> = words.filter(|word| word.starts_with("service:")).map(str::to_owned).collect();
    assert!(!asked.is_empty() && asked.is_subset(&recorded), "{asked:?} of {recorded:?}");
}

#[test]
fn every_alert_has_a_section_of_its_name_in_the_runbooks_and_a_test_and_no_section_is_without_an_alert() {
    let (rules, tests) = (read("deploy/prometheus/alerts.yaml"), read("deploy/prometheus/tests.yaml"));
    let alerts: BTreeSet<_> = values(&rules, "alert").into_iter().collect();
    let runbooks = read("docs/runbooks.md");
    let sections = runbooks.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_owned);
    assert_eq!(sections.collect::<BTreeSet<_>>(), alerts);
    let wanted = [
        "DataPlaneDown",
        "ControlPlaneDown",
        "NothingToRouteBy",
        "StoreSilent",
        "PeerSilent",
        "DataPlaneOutOfTouch",
        "SlowStore",
        "QuotaExhausted",
        "AuthFileUnusable",
        "CertificateFilesUnusable",
        "CertificateEndsSoon",
        "TokenEndsSoon",
        "ConnectionsNearLimit",
        "FilesNearLimit",
        "GatewayPanicked",
        "AccessLogLost",
        "AttemptsFail",
        "NoReadyReplica",
        "AllBreakersOpen",
        "BreakerFlapping",
        "RetryBudgetExhausted",
        "SnapshotStale",
        "NodeNacked",
        "LeaseExpirySpike",
        "GuardHolding",
        "PanicMode",
        "OverrideForgotten",
        "FaultActive",
        "HighErrorRatio",
    ];
    for alert in wanted {
        assert!(alerts.contains(alert), "{alert} is missing");
        let link = format!("runbook_url: docs/runbooks.md#{}", alert.to_lowercase());
        assert!(rules.contains(&link), "no {link}");
        // Where it fires, and where it does not.
        let name = format!("alertname: {alert}");
        assert!(tests.matches(&name).count() >= 2, "{alert} has no test of both kinds");
    }
    assert_eq!(alerts.len(), wanted.len(), "{alerts:?}");
}

/// Every query of the dashboard.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_panel_of_the_dashboard_has_a_title_a_description_a_place_of_its_own_and_a_source_that_can_be_chosen()
{
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/gateway.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(!title.is_empty() && ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let place = &panel["gridPos"];
        let of = |key: &str| place[key].as_u64().unwrap();
        for (x, y) in
            (of("x")..of("x") + of("w")).flat_map(|x| (of("y")..of("y") + of("h")).map(move |y| (x, y)))
        {
            assert!(x < 24 && places.insert((x, y)), "{title} covers another at {x},{y}");
        }
        if panel["type"] != "row" {
            assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            assert!(
                panel["fieldConfig"]["defaults"]["unit"].is_string() || panel["type"] == "table",
                "{title}"
            );
        }
    }
    assert!(queries(&dashboard).len() > panels.len() / 2);
}

fn promtool(args: &[&str]) -> Command {
    let mut command = Command::new(tools::promtool());
    command.args(args).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command
}

/// What the Prometheus operator is given, of the files that a Prometheus without it reads.
fn operators_rule() -> String {
    let mut rule = String::from(
        "# Written from deploy/prometheus by `UPDATE_DOCS=1 cargo test --workspace --test e2e -- the_operator`.\n\
         apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: gateway\nspec:\n  groups:\n",
    );
    for path in ["deploy/prometheus/recording.yaml", "deploy/prometheus/alerts.yaml"] {
        let text = read(path);
        let (_, groups) = text.split_once("\ngroups:\n").unwrap();
        for line in groups.lines() {
            rule += if line.is_empty() { "" } else { "  " };
            rule += line;
            rule.push('\n');
        }
    }
    rule
}

#[test]
fn the_operator_of_prometheus_is_given_the_same_rules() {
    let path = "deploy/kubernetes/prometheus-rule.yaml";
    let rule = operators_rule();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path), &rule).unwrap();
    }
    assert!(read(path) == rule, "{path} is not up to date: its first line says how it is written");
}

#[tokio::test]
async fn rules_are_valid_and_fire_where_they_should_and_nowhere_else_by_promtool() {
    let files = ["deploy/prometheus/recording.yaml", "deploy/prometheus/alerts.yaml"];
    command::run(promtool(&[&["check", "rules"][..], &files].concat())).await.success();
    command::run(promtool(&["test", "rules", "deploy/prometheus/tests.yaml"])).await.success();
    command::run(promtool(&["check", "config", "deploy/prometheus/prometheus.yaml"])).await.success();
}

#[tokio::test]
async fn the_dashboards_queries_are_valid_by_promtool() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/gateway.json")).unwrap();
    // As rules, which promtool can check; variables as Grafana would fill them in.
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (number, query) in queries(&dashboard).into_iter().enumerate() {
        let query =
            query.replace("$__rate_interval", "1m").replace("$service", ".*").replace("$instance", ".*");
        assert!(!query.contains('$'), "{query}");
        rules += &format!("      - record: dashboard:query_{number}\n        expr: {}\n", Value::from(query));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dashboard.yaml");
    fs::write(&path, rules).unwrap();
    command::run(promtool(&["check", "rules", &path.display().to_string()])).await.success();
}

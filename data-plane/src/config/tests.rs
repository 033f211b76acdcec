//! What the flags accept, and what they say when they don't.

use clap::{CommandFactory, Parser};

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn validate(flags: &[&str]) -> Result<Config, Failure> {
    Cli::try_parse_from([&["gw-data-plane"], flags].concat()).unwrap().args.validate()
}

fn refusal(flags: &[&str]) -> String {
    let failure = validate(flags).unwrap_err();
    assert_eq!(failure.code(), 2);
    failure.to_string()
}

#[test]
fn every_flag_has_a_variable_and_a_help_text() {
    let command = Cli::command();
    command.clone().debug_assert();
    for flag in command.get_arguments().filter(|flag| flag.get_id() != "help") {
        let variable = flag.get_env().unwrap_or_default().to_str().unwrap();
        assert!(variable.starts_with("GW_"), "{}", flag.get_id());
        assert!(flag.get_help().is_some(), "{}", flag.get_id());
    }
}

#[test]
fn without_flags_the_local_control_plane_is_followed() {
    let config = validate(&[]).unwrap();
    let Registry::ControlPlane { urls, .. } = config.registry else { panic!("no control plane") };
    assert_eq!(urls.iter().map(ToString::to_string).collect::<Vec<_>>(), ["http://127.0.0.1:7400"]);
    assert!(config.workers >= 1);
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
}

#[test]
fn tls_needs_an_address_and_a_key_for_each_certificate() {
    let refused = refusal(&["--tls-certificate", "a.crt"]);
    assert!(refused.contains("need --tls-listen"), "{refused}");
    let tls = ["--tls-listen", "127.0.0.1:0"];
    for (flags, counts) in [
        (&[][..], "--tls-certificate names 0, --tls-key 0"),
        (
            &["--tls-certificate", "a.crt,b.crt", "--tls-key", "a.key"],
            "--tls-certificate names 2, --tls-key 1",
        ),
    ] {
        let refused = refusal(&[&tls[..], flags].concat());
        assert!(refused.contains(counts), "{refused}");
    }
    let refused =
        refusal(&[&tls[..], &["--tls-certificate", "/no/such.crt", "--tls-key", "/no/such.key"]].concat());
    assert!(refused.contains("/no/such.crt: No such file"), "{refused}");
}

#[test]
fn control_planes_are_separated_by_commas() {
    let config = validate(&["--control-plane", "http://a:1,unix:///run/gateway/control.sock"]).unwrap();
    let Registry::ControlPlane { urls, .. } = config.registry else { panic!("no control plane") };
    assert_eq!(urls.len(), 2);
    let refused = refusal(&["--control-plane", "unix://control.sock"]);
    assert!(refused.contains("write unix:///PATH"), "{refused}");
}

#[test]
fn some_services_are_carried_by_name_and_keep_a_snapshot_of_their_own() {
    let services = |flags: &[&str]| match validate(flags).unwrap().registry {
        Registry::ControlPlane { services, .. } => services,
        Registry::Static(_) => panic!("no control plane"),
    };
    assert_eq!(services(&[]), Services::All);
    assert_eq!(services(&["--services", "*"]), Services::All);
    let names = ["orders", "users"].map(|name| gateway_proto::ServiceName::parse(name).unwrap());
    assert_eq!(
        services(&["--services", "users,orders", "--services", "users"]),
        Services::Some(names.into())
    );
    let folder = tempfile::tempdir().unwrap();
    let path = |flags: &[&str]| {
        let all = [&["--cache-dir", folder.path().to_str().unwrap()], flags].concat();
        match validate(&all).unwrap().registry {
            Registry::ControlPlane { cache, .. } => cache.unwrap().path(),
            Registry::Static(_) => panic!("no control plane"),
        }
    };
    assert_ne!(path(&[]), path(&["--services", "orders"]));
    assert_eq!(path(&["--services", "a,b"]), path(&["--services", "b,a"]));
    assert!(refusal(&["--services", "Orders"]).starts_with("--services \"Orders\" "));
    let file = folder.path().join("services");
    std::fs::write(&file, "users\norders # of the shop\n").unwrap();
    let file = file.display().to_string();
    assert_eq!(services(&["--services-file", &file]), services(&["--services", "orders,users"]));
    assert_eq!(path(&["--services-file", &file]), path(&["--services", "orders,users"]));
    std::fs::write(&file, "").unwrap();
    let refused = refusal(&["--services-file", &file]);
    assert!(refused.starts_with("--services-file ") && refused.contains("names no service"), "{refused}");
}

#[test]
fn a_given_cache_directory_is_used_as_it_is_and_none_is_used_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("new");
    let config = validate(&["--cache-dir", directory.to_str().unwrap(), "--cache-max-age", "1h"]).unwrap();
    let Registry::ControlPlane { cache, .. } = config.registry else { panic!("no control plane") };
    assert_eq!(cache, Some(Cache::new(&directory, Duration::from_secs(3600))));
    assert_eq!(
        std::fs::read_dir(&directory).unwrap().count(),
        0,
        "it is there, and nothing is left of the trial"
    );
    let config = validate(&["--no-cache"]).unwrap();
    assert!(matches!(config.registry, Registry::ControlPlane { cache: None, .. }));
}

#[test]
fn a_cache_directory_that_cannot_be_used_ends_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let directory = file.path().join("below-a-file");
    let refused = validate(&["--cache-dir", directory.to_str().unwrap()]).unwrap_err();
    let expected = format!("--cache-dir {}: snapshots cannot be kept there: ", directory.display());
    assert!(refused.to_string().starts_with(&expected), "{refused}");
    assert_eq!(refused.code(), 2);
}

#[test]
fn a_static_file_is_read_at_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[[service]]\nname = 'orders'\nreplicas = ['127.0.0.1:1']").unwrap();
    let config = validate(&["--static", file.path().to_str().unwrap()]).unwrap();
    let Registry::Static(file) = config.registry else { panic!("no static list") };
    assert_eq!(file.services.len(), 1);
}

#[test]
fn a_wrong_flag_is_named_with_what_is_allowed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    for (flags, why) in [
        (vec!["--workers", "0"], "--workers 0 is not in 1..=1024".to_owned()),
        (
            vec!["--workers", "4", "--max-connections", "3"],
            "--max-connections 3 is less than --workers 4: each of them has a share of it, of one at least"
                .into(),
        ),
        (
            vec!["--node-id", "Web"],
            "--node-id \"Web\": node_id: may hold only a-z, 0-9 and '-', found 'W'".into(),
        ),
        (
            vec!["--control-plane", "127.0.0.1:7400"],
            "--control-plane \"127.0.0.1:7400\" has no scheme: write http://HOST:PORT".into(),
        ),
        (vec!["--domain", "a b"], "--domain \"a b\" is no DNS name such as example.com".into()),
        (vec!["--domain", "10.0.0.1"], "--domain \"10.0.0.1\" is no DNS name such as example.com".into()),
        (
            vec!["--no-cache", "--cache-dir", "/tmp/x"],
            "--no-cache excludes --cache-dir: give one of them".into(),
        ),
        (
            vec!["--static", path, "--control-plane", "http://a:1"],
            "--static excludes --control-plane: a fixed list of services follows no control plane".into(),
        ),
        (
            vec!["--static", path],
            format!("--static {path}: has no [[service]]: a data plane without services has nothing to do"),
        ),
        (
            vec!["--static", "/nowhere"],
            "--static /nowhere: cannot be read: No such file or directory (os error 2)".into(),
        ),
    ] {
        assert_eq!(refusal(&flags), why);
    }
    let many = vec!["http://a:1"; 17].join(",");
    assert_eq!(refusal(&["--control-plane", &many]), "--control-plane names 17, at most 16 are allowed");
}

#[test]
fn a_domain_is_kept_in_the_form_that_hosts_are_compared_with() {
    assert_eq!(validate(&["--domain", ".Example.COM"]).unwrap().domain.as_deref(), Some("example.com"));
}

#[test]
fn an_access_log_is_kept_only_where_one_is_asked_for() {
    assert!(validate(&[]).unwrap().access_log.is_none());
    assert!(validate(&["--access-log", "stdout"]).unwrap().access_log.is_some());
    let refused = refusal(&["--access-log", "/no/such/file"]);
    assert!(refused.contains("--access-log /no/such/file: cannot be written: No such file"), "{refused}");
    for sample in ["0", "-1", "x"] {
        assert!(Cli::try_parse_from(["gw-data-plane", "--access-log-sample", sample]).is_err(), "{sample}");
    }
}

#[test]
fn proxy_headers_are_taken_only_from_peers_that_are_named() {
    assert!(validate(&[]).unwrap().proxy_headers.is_none());
    let from = ["--proxy-protocol-from", "10.0.0.0/8"];
    assert!(
        validate(&[&["--proxy-protocol", "optional"], &from[..]].concat()).unwrap().proxy_headers.is_some()
    );
    let refused = refusal(&["--proxy-protocol", "required"]);
    assert!(refused.contains("--proxy-protocol needs --proxy-protocol-from"), "{refused}");
    let refused = refusal(&from);
    assert!(refused.contains("--proxy-protocol-from needs --proxy-protocol"), "{refused}");
    let refused = refusal(&["--proxy-protocol", "optional", "--proxy-protocol-from", "ten"]);
    assert!(refused.contains("--proxy-protocol-from: \"ten\" is no IP address"), "{refused}");
}

#[test]
fn trusted_proxies_are_networks_and_nobody_is_trusted_without() {
    assert!(validate(&[]).unwrap().forwarding.trusted.is_empty());
    assert!(validate(&["--trusted-proxies", ""]).unwrap().forwarding.trusted.is_empty());
    let config = validate(&["--trusted-proxies", "10.0.0.0/8, ::1", "--forwarded"]).unwrap();
    assert_eq!(config.forwarding.trusted.to_string(), "10.0.0.0/8,::1/128");
    assert!(config.forwarding.writes_forwarded);
    let refused = refusal(&["--trusted-proxies", "10.0.0.0/8,proxy.example"]);
    assert!(
        refused.contains("--trusted-proxies: \"proxy.example\" is no IP address or network"),
        "{refused}"
    );
    let refused = refusal(&["--trusted-proxies", "10.1.0.0/8"]);
    assert!(refused.contains("10.0.0.0/8 is the network"), "{refused}");
    let refused = refusal(&["--trusted-proxies", &["::1"; 257].join(",")]);
    assert!(refused.contains("names 257 networks, at most 256"), "{refused}");
}

#[test]
fn a_place_is_a_region_a_zone_or_both() {
    let config = validate(&["--region", "eu", "--zone", "eu-1a"]).unwrap();
    assert_eq!((config.locality.region(), config.locality.zone()), ("eu", "eu-1a"));
    assert_eq!(validate(&[]).unwrap().locality, Locality::default());
    assert_eq!(refusal(&["--zone", "a b"]), "--zone: must be visible ASCII characters without spaces");
    let long = "z".repeat(64);
    assert_eq!(refusal(&["--region", &long]), "--region: has more than 63 characters");
}

#[test]
fn a_certificate_for_replicas_and_its_key_need_each_other() {
    for flag in ["--upstream-certificate", "--upstream-key"] {
        assert!(refusal(&[flag, "a"]).contains("need each other"), "{flag}");
    }
    let refused = refusal(&["--upstream-ca", "/no/such.crt"]);
    assert!(refused.contains("/no/such.crt: No such file"), "{refused}");
}

#[test]
fn a_token_is_shown_to_a_control_plane_elsewhere_in_tls_only_unless_told_otherwise() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "sesame-sesame-sesame").unwrap();
    let token = ["--control-plane-token-file", file.path().to_str().unwrap()];
    let at = |url| ["--control-plane", url];
    for url in ["http://control.example:7400", "https://a:1,http://10.0.0.2:7400"] {
        let refused = refusal(&[&token[..], &at(url)].concat());
        let plain = url.rsplit(',').next().unwrap();
        assert!(refused.starts_with(&format!("--control-plane {plain} is reached")), "{refused}");
        assert!(refused.contains("https://, or say --insecure") && !refused.contains("sesame"), "{refused}");
        assert!(validate(&[&token[..], &at(url), &["--insecure"]].concat()).is_ok(), "{url}");
        assert!(validate(&at(url)).is_ok(), "{url}: without a token there is nothing to read");
    }
    for url in
        ["http://127.0.0.1:7400", "http://[::1]:1", "https://control.example:7400", "unix:///run/gw.sock"]
    {
        assert!(validate(&[&token[..], &at(url)].concat()).is_ok(), "{url}");
    }
}

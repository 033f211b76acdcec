//! `gwctl auth`: tokens and their entries, whether an auth file is right, and who one is to a control plane.

use std::{
    fs,
    io::Write as _,
    num::NonZeroU32,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::{
    control::Control,
    error::{Error, Exit},
    output::{Format, Output},
};

/// What to do about access.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a random token in a file of its own, and print its entry for the auth file
    Token(TokenArgs),
    /// Check an auth file by the code that reads it in earnest
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Say who you are to the control plane, and what you may do there
    Whoami,
}

/// Flags of `gwctl auth token`.
#[derive(Debug, clap::Args)]
pub(crate) struct TokenArgs {
    /// What its owner goes by in events and logs
    #[arg(value_parser = parse_name)]
    name: String,
    /// What he may do; may be repeated
    #[arg(long = "role", required = true, value_name = "ROLE")]
    roles: Vec<RoleName>,
    /// With the role replica: the services that he may register, exact or as PREFIX*; may be repeated
    #[arg(long = "service", value_name = "SERVICE")]
    services: Vec<String>,
    /// With the role replica: where his replicas may be, as networks or names such as *.orders.svc; may be repeated
    #[arg(long = "address", value_name = "CIDR|NAME")]
    addresses: Vec<String>,
    /// With the role replica: how many replicas he may have registered; without it, half of what the registry takes
    #[arg(long, value_name = "N")]
    max_replicas: Option<NonZeroU32>,
    /// With the role replica: in how many services he may have some; without it, in any number
    #[arg(long, value_name = "N")]
    max_services: Option<NonZeroU32>,
    /// With the role data-plane: the node ids that it may go by, exact or as PREFIX*; may be repeated
    #[arg(long = "node", value_name = "NODE")]
    nodes: Vec<String>,
    /// From where the token is taken, as networks; may be repeated
    #[arg(long = "from", value_name = "CIDR")]
    from: Vec<String>,
    /// How long it is good, such as 90d; without it, for ever
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expires_in: Option<Duration>,
    /// Where the token goes; the file must not be there yet [default: NAME.token]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A role, as the auth file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleName {
    /// Registers, renews, reports, drains and removes replicas of its services
    Replica,
    /// Follows the registry and reports, as a data plane does
    DataPlane,
    /// Looks at everything and changes nothing
    Reader,
    /// Does everything that people do
    Operator,
}

impl RoleName {
    fn name(self) -> &'static str {
        match self {
            Self::Replica => "replica",
            Self::DataPlane => "data-plane",
            Self::Reader => "reader",
            Self::Operator => "operator",
        }
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    match (1..=63).contains(&text.len()) && text.chars().all(is_plain) && !text.starts_with('.') {
        true => Ok(text.to_owned()),
        false => Err("is 1 to 63 letters, digits, '-', '_', '.' and '@'".into()),
    }
}

/// Makes a token, or checks a file. Needs no control plane.
///
/// # Errors
/// What is wrong with the file, and a file that cannot be written.
pub(crate) fn run(verb: &Verb, output: &Output) -> Result<(), Error> {
    match verb {
        Verb::Token(args) => token(args, output),
        Verb::Check { file } => check(file, output),
        Verb::Whoami => unreachable!("it asks a control plane"),
    }
}

fn token(args: &TokenArgs, output: &Output) -> Result<(), Error> {
    let token = format!("gwt_{}", hex(&rand::random::<[u8; 32]>()));
    let entry = entry(args, &control_plane::auth_file::fingerprint(&token), SystemTime::now());
    control_plane::auth_file::check_text(&entry)
        .map_err(|why| Error::new(Exit::Usage, format!("no such entry can be: {why}")))?;
    let path = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{}.token", args.name)));
    write(&path, &token).map_err(|error| {
        Error::new(Exit::Failed, format!("cannot write the token to {}: {error}", path.display()))
            .hint("name another file with  --out FILE")
    })?;
    output.note(format!(
        "the token is in {}, for you alone to read; the entry goes into the file of --auth-file",
        path.display()
    ));
    match output.format {
        Format::Json => output.value(&json!({"name": args.name, "tokenFile": path, "entry": entry})),
        Format::Name => output.data(format_args!("{}\n", path.display())),
        Format::Table | Format::Wide => output.data(format_args!("{entry}\n")),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Readable by its owner alone from the first moment, and never in the place of another file.
fn write(path: &Path, token: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(token.as_bytes())?;
    file.write_all(b"\n")
}

fn entry(args: &TokenArgs, fingerprint: &str, now: SystemTime) -> String {
    let list = |key: &str, values: Vec<String>| {
        let quoted: Vec<_> =
            values.iter().map(|value| toml::Value::from(value.as_str()).to_string()).collect();
        match quoted.is_empty() {
            true => String::new(),
            false => format!("{key} = [{}]\n", quoted.join(", ")),
        }
    };
    let mut text = format!("[[token]]\nname = \"{}\"\nsha256 = \"{fingerprint}\"\n", args.name);
    text += &list("roles", args.roles.iter().map(|role| role.name().to_owned()).collect());
    text += &list("services", args.services.clone());
    text += &list("addresses", args.addresses.clone());
    for (key, number) in [("max-replicas", args.max_replicas), ("max-services", args.max_services)] {
        if let Some(number) = number {
            text += &format!("{key} = {number}\n");
        }
    }
    text += &list("nodes", args.nodes.clone());
    text += &list("from", args.from.clone());
    if let Some(end) = args.expires_in.and_then(|within| now.checked_add(within)) {
        text += &format!("expires = \"{}\"\n", humantime::format_rfc3339_seconds(end));
    }
    text
}

fn check(file: &Path, output: &Output) -> Result<(), Error> {
    let found = control_plane::auth_file::check(file).map_err(|why| {
        Error::new(Exit::Usage, "not valid").because(why).hint("docs/security.md describes the file")
    })?;
    match output.format {
        Format::Json => output.value(&json!({
            "file": file, "valid": true, "tokens": found.tokens, "certificates": found.certificates,
            "users": found.users, "jwtRules": found.jwt_rules,
        })),
        Format::Name => output.data(format_args!("{}\n", file.display())),
        Format::Table | Format::Wide => output.data(format_args!(
            "{}: ok ({} tokens, {} certificates, {} users, {} rules for JWTs)\n",
            file.display(),
            found.tokens,
            found.certificates,
            found.users,
            found.jwt_rules
        )),
    }
}

/// What operators may, as control planes say it.
const OPERATE: &str = "change how the gateway works";

/// Whether whoever asks may do what operators do, as far as the control plane says: where nobody is asked who he is, everybody has.
pub(crate) async fn is_operator(control: &Control) -> bool {
    let told = control.probe("/whoami").await.ok();
    // One of an older version does not say.
    told.and_then(|told| serde_json::from_str(&told.text).ok()).is_none_or(|told| may_operate(&told))
}

fn may_operate(told: &Value) -> bool {
    if told["authentication"] != true {
        return true;
    }
    match told["may"].as_array() {
        // Of his entries those count that hold from where he is.
        Some(may) => may.iter().any(|action| action == OPERATE),
        None => {
            let grants = told["grants"].as_array().into_iter().flatten();
            let mut roles = grants.flat_map(|grant| grant["roles"].as_array().into_iter().flatten());
            roles.any(|granted| granted == "operator")
        }
    }
}

/// Says who one is to a control plane.
///
/// # Errors
/// What the control plane says, and [`Exit::Denied`] when it knows nobody by what it was shown.
pub(crate) async fn whoami(control: &Control, output: &Output) -> Result<(), Error> {
    let answer = control.probe("/whoami").await?;
    let told: Value = serde_json::from_str(&answer.text)
        .map_err(|_| Error::new(Exit::Failed, "the control plane does not say: it is of another version"))?;
    match output.format {
        Format::Json => output.value(&told)?,
        Format::Name => output.data(format_args!("{}\n", told["name"].as_str().unwrap_or("-")))?,
        Format::Table | Format::Wide => output.data(in_words(&told))?,
    }
    match told["name"].is_null() {
        true => Err(Error::told(Exit::Denied)),
        false => Ok(()),
    }
}

fn in_words(told: &Value) -> String {
    let text = |key: &str| told[key].as_str().unwrap_or("-").to_owned();
    let joined = |value: &Value| {
        let values = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        values.collect::<Vec<_>>().join(", ")
    };
    let mut lines = vec![format!("name      {}", text("name"))];
    if let Some(kind) = told["kind"].as_str() {
        lines.push(format!("known by  {kind}"));
    }
    if let Some(from) = told["from"].as_str() {
        lines.push(format!("from      {from}"));
    }
    if let Some(expires) = told["expires"].as_str() {
        lines.push(format!("until     {expires}"));
    }
    for grant in told["grants"].as_array().into_iter().flatten() {
        let mut line = format!("role      {}", joined(&grant["roles"]));
        for (key, word) in [("services", "for"), ("nodes", "as")] {
            let names = joined(&grant[key]);
            if !names.is_empty() {
                line += &format!(" {word} {names}");
            }
        }
        for (key, word) in [("addresses", "at"), ("from", "when asking from")] {
            if let Some(where_) = grant[key].as_str() {
                line += &format!(" {word} {where_}");
            }
        }
        for (key, what) in [("maxReplicas", "replicas"), ("maxServices", "services")] {
            if let Some(number) = grant[key].as_u64() {
                line += &format!(", at most {number} {what}");
            }
        }
        lines.push(line);
    }
    if let (Some(replicas), Some(services)) =
        (told["registered"]["replicas"].as_u64(), told["registered"]["services"].as_u64())
        && replicas > 0
    {
        let counted = |count: u64, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let (replicas, services) = (counted(replicas, "replica"), counted(services, "service"));
        lines.push(format!("has       {replicas} registered, in {services}"));
    }
    let may = joined(&told["may"]);
    lines.push(format!("may       {}", if may.is_empty() { "nothing but ask for health" } else { &may }));
    if let Some(detail) = told["detail"].as_str() {
        lines.push(format!("note      {detail}"));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(name: &str, roles: Vec<RoleName>) -> TokenArgs {
        let (services, addresses, nodes, from) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        TokenArgs {
            name: name.into(),
            roles,
            services,
            addresses,
            max_replicas: None,
            max_services: None,
            nodes,
            from,
            expires_in: None,
            out: None,
        }
    }

    #[test]
    fn whoever_may_do_everything_is_an_operator_and_of_who_is_known_his_roles_say_it() {
        let told = |roles: &[&str]| serde_json::json!({"authentication": true, "grants": [{"roles": ["reader"]}, {"roles": roles}]});
        assert!(may_operate(&serde_json::json!({"authentication": false})));
        assert!(may_operate(&told(&["replica", "operator"])));
        assert!(!may_operate(&told(&["replica"])));
        assert!(!may_operate(&serde_json::json!({"authentication": true, "name": null})));
    }

    #[test]
    fn whose_role_operator_does_not_hold_from_where_he_is_is_none() {
        let told = |may: &[&str]| {
            serde_json::json!({
                "authentication": true, "may": may,
                "grants": [{"roles": ["operator"], "from": "10.0.0.0/8"}, {"roles": ["replica"]}],
            })
        };
        assert!(!may_operate(&told(&["register replicas"])));
        assert!(may_operate(&told(&["look at the registry", "change how the gateway works"])));
    }

    #[test]
    fn an_entry_is_what_the_auth_file_takes() {
        let args = TokenArgs {
            services: vec!["orders".into(), "team-*".into()],
            addresses: vec!["10.0.0.0/8".into()],
            max_replicas: NonZeroU32::new(500),
            max_services: NonZeroU32::new(20),
            nodes: vec!["edge-*".into()],
            from: vec!["192.0.2.0/24".into()],
            expires_in: Some(Duration::from_secs(86_400)),
            ..args("ci", vec![RoleName::Replica, RoleName::DataPlane])
        };
        let text = entry(&args, &"0a".repeat(32), SystemTime::UNIX_EPOCH);
        assert_eq!(
            text,
            format!(
                "[[token]]\nname = \"ci\"\nsha256 = \"{}\"\nroles = [\"replica\", \"data-plane\"]\nservices = [\"orders\", \
                 \"team-*\"]\naddresses = [\"10.0.0.0/8\"]\nmax-replicas = 500\nmax-services = 20\nnodes = [\"edge-*\"]\nfrom = [\"192.0.2.0/24\"]\nexpires = \
                 \"1970-01-02T00:00:00Z\"\n",
                "0a".repeat(32)
            )
        );
        control_plane::auth_file::check_text(&text).unwrap();
    }

    #[test]
    fn a_token_s_file_is_its_owner_s_alone_and_takes_no_other_file_s_place() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ci.token");
        write(&path, "gwt_1").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write(&path, "gwt_2").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "gwt_1\n");
    }

    #[test]
    fn a_name_is_one_that_a_line_and_a_file_can_have() {
        assert!(parse_name("ci-1").is_ok() && parse_name("ana@example.com").is_ok());
        for bad in ["", ".", "../x", "a b", "a:b", "a\"", &"x".repeat(64)] {
            assert!(parse_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_one_is_is_said_in_words() {
        let told = json!({
            "authentication": true, "name": "ci", "kind": "token", "from": "10.0.0.1", "may": ["register replicas"],
            "grants": [{
                "roles": ["replica"], "services": ["orders"], "addresses": "10.0.0.0/8", "from": null,
                "maxReplicas": 500, "maxServices": null,
            }],
            "registered": {"replicas": 12, "services": 1}, "expires": null,
        });
        assert_eq!(
            in_words(&told),
            "name      ci\nknown by  token\nfrom      10.0.0.1\nrole      replica for orders at 10.0.0.0/8, at most \
             500 replicas\nhas       12 replicas registered, in 1 service\nmay       register replicas\n"
        );
    }
}

use proptest::prelude::*;

use super::*;
use crate::auth::{CredentialError, book::Credential, permission::Permission};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn read_text(text: &str) -> Result<Book, String> {
    parse(text, &mut |name| name.to_owned())
}

fn bearer(token: &str) -> Credential {
    Credential::Bearer(Secret::new(token))
}

fn entry(name: &str, token: &str, rest: &str) -> String {
    format!("[[token]]\nname = \"{name}\"\nsha256 = \"{}\"\n{rest}\n", Fingerprint::of(&Secret::new(token)))
}

fn refusal(text: &str) -> String {
    read_text(text).map(|_| ()).expect_err(text)
}

#[test]
fn a_token_is_known_by_its_hash_and_grants_what_its_entry_says() {
    let text = entry(
        "ci",
        "sesame",
        "roles = [\"replica\", \"reader\"]\nservices = [\"orders\", \"team-*\"]\naddresses = [\"10.0.0.0/8\", \"*.svc\"]\nfrom = [\"192.0.2.0/24\"]",
    );
    let book = read_text(&text).unwrap();
    let known = book.identify(&bearer("sesame"), NOW).unwrap();
    assert_eq!((&*known.name, known.expires), ("ci", None));
    let from = Some("192.0.2.1".parse().unwrap());
    assert!(known.has(Permission::Read, from) && known.has(Permission::Register, from));
    assert!(!known.has(Permission::Operate, from) && !known.has(Permission::Follow, from));
    let service = gateway_proto::ServiceName::parse("team-a").unwrap();
    assert!(known.owns(&service, from) && !known.owns(&service, None));
    assert_eq!(book.identify(&bearer("Sesame"), NOW), Err(CredentialError::invalid("is not known")));
}

#[test]
fn each_kind_of_entry_says_how_much_may_be_registered_by_it() {
    let numbers = "roles = [\"replica\"]\nservices = [\"orders\"]\nmax-replicas = 500\nmax-services = 20";
    let text = [
        entry("ci", "sesame", numbers),
        format!("[[certificate]]\nname = \"cn:ci\"\n{numbers}\n"),
        format!("[[user]]\nname = \"ana\"\nuid = 1000\n{numbers}\n"),
    ];
    let book = read_text(&text.concat()).unwrap();
    let service = gateway_proto::ServiceName::parse("orders").unwrap();
    let certificate = gateway_runtime::tls::PeerCertificate {
        uris: Vec::new(),
        dns: Vec::new(),
        common_name: Some("ci".into()),
        not_after: NOW + std::time::Duration::from_secs(9),
    };
    for shown in [bearer("sesame"), Credential::Certificate(Arc::new(certificate)), Credential::User(1000)] {
        let quota = book.identify(&shown, NOW).unwrap().quota(&service, None);
        assert_eq!(quota, Some(Quota { replicas: Some(500), services: Some(20) }), "{shown:?}");
    }
}

#[test]
fn a_token_ends_when_its_entry_says() {
    let text = entry("ci", "sesame", "roles = [\"reader\"]\nexpires = \"2027-01-31T00:00:00Z\"");
    let book = read_text(&text).unwrap();
    let end = time("2027-01-31T00:00:00Z").unwrap();
    assert!(book.identify(&bearer("sesame"), end - std::time::Duration::from_secs(1)).is_ok());
    assert_eq!(book.identify(&bearer("sesame"), end), Err(CredentialError::Expired));
}

#[test]
fn what_an_entry_must_not_say_is_refused_with_its_name() {
    let with = |rest: &str| refusal(&entry("ci", "sesame", rest));
    for (rest, why) in [
        ("roles = []", "has no role"),
        (
            "roles = [\"admin\"]",
            "there is no role \"admin\": the roles are replica, data-plane, reader, operator",
        ),
        ("roles = [\"replica\"]", "needs services"),
        ("roles = [\"reader\"]\nservices = [\"a\"]", "are for the role replica"),
        ("roles = [\"reader\"]\naddresses = [\"10.0.0.0/8\"]", "are for the role replica"),
        (
            "roles = [\"reader\"]\nmax-replicas = 5",
            "max-replicas and max-services are for the role replica alone",
        ),
        (
            "roles = [\"replica\", \"operator\"]\nservices = [\"a\"]\nmax-services = 5",
            "max-replicas and max-services are for the role replica alone",
        ),
        ("roles = [\"reader\"]\nnodes = [\"dp-1\"]", "nodes are for the role data-plane"),
        ("roles = [\"data-plane\"]\nnodes = [\"d*1\"]", "nodes: \"d*1\" has a '*' that is not its end"),
        ("roles = [\"replica\"]\nservices = [\"a*b\"]", "'*' that is not its end"),
        (
            "roles = [\"replica\"]\nservices = [\"a\"]\naddresses = [\"10.0.0.1/8\"]",
            "addresses: \"10.0.0.1/8\" has bits set",
        ),
        ("roles = [\"replica\"]\nservices = [\"a\"]\naddresses = [\"a*.svc\"]", "is no name"),
        ("roles = [\"reader\"]\nfrom = [\"x/8\"]", "from: \"x/8\""),
        ("roles = [\"reader\"]\nexpires = \"soon\"", "is no time such as"),
        ("roles = [\"reader\"]\ntoken-file = \"f\"", "needs either sha256 or token-file"),
    ] {
        let told = with(rest);
        assert!(told.starts_with("token \"ci\": ") && told.contains(why), "{rest}: {told}");
    }
    let none = with("roles = [\"replica\"]\nservices = [\"a\"]\nmax-replicas = 0");
    assert!(none.starts_with("line 6") && none.contains("nonzero"), "{none}");
    assert!(with("rols = [\"reader\"]").contains("line 4"), "{}", with("rols = [\"reader\"]"));
    assert!(
        refusal("[[token]]\nname = \"a:b\"\nsha256 = \"00\"\nroles = [\"reader\"]").contains("without ':'")
    );
    assert!(
        refusal("[[token]]\nname = \"a\"\nsha256 = \"00\"\nroles = [\"reader\"]")
            .contains("64 hexadecimal digits")
    );
    assert!(refusal("").contains("nobody could do anything"));
    assert!(
        refusal("[[certificate]]\nname = \"orders\"\nroles = [\"reader\"]")
            .contains("spiffe://, dns: or cn:")
    );
}

#[test]
fn a_user_of_this_machine_has_a_number_of_his_own() {
    let entry = |name: &str, uid: u32, rest: &str| {
        format!("[[user]]\nname = \"{name}\"\nuid = {uid}\nroles = [\"reader\"]\n{rest}\n")
    };
    let book = read_text(&(entry("ana", 1000, "") + &entry("root", 0, ""))).unwrap();
    assert_eq!(&*book.identify(&Credential::User(0), NOW).unwrap().name, "root");
    let nobody = overflow_uid();
    for (text, why) in [
        (
            entry("ana", 1000, "") + &entry("bob", 1000, ""),
            "user \"bob\": uid 1000 is that of user \"ana\", too".to_owned(),
        ),
        (
            entry("nobody", nobody, ""),
            format!(
                "user \"nobody\": uid {nobody} is nobody: the kernel says so of whoever it cannot name here"
            ),
        ),
        (
            entry("a:b", 1, ""),
            "user \"a:b\": a name is 1 to 63 visible ASCII characters without ':'".to_owned(),
        ),
        (
            entry("ana", 1, "services = [\"x\"]"),
            "user \"ana\": services and addresses are for the role replica, which it does not have"
                .to_owned(),
        ),
    ] {
        assert_eq!(refusal(&text), why);
    }
    assert!(refusal(&entry("ana", 1, "from = [\"10.0.0.0/8\"]")).contains("unknown field `from`"));
}

#[test]
fn keys_of_jwts_are_in_a_file_or_published_and_not_both() {
    let with = |keys: &str| {
        let rule = "[[jwt.rule]]\nclaim = \"groups\"\nvalue = \"ops\"\nroles = [\"operator\"]\n";
        read_text(&format!("[jwt]\nissuer = \"https://idp\"\naudiences = [\"gateway\"]\n{keys}\n{rule}"))
    };
    let url = "jwks-url = \"https://idp.example/keys\"";
    let book = with(url).unwrap();
    assert_eq!(book.remote().unwrap().to_string(), "https://idp.example/keys");
    let jwt = bearer("eyJhbGciOiJFZERTQSJ9.e30.AAAA");
    assert_eq!(book.identify(&jwt, NOW), Err(CredentialError::NoKeys), "none were fetched yet");
    for (keys, why) in [
        (String::new(), "needs either jwks-file, or jwks-url"),
        (format!("{url}\njwks-file = \"keys.json\""), "needs either jwks-file, or jwks-url"),
        ("jwks-file = \"keys.json\"\njwks-ca = \"ca.pem\"".into(), "needs either jwks-file, or jwks-url"),
        ("jwks-url = \"http://idp.example/keys\"".into(), "has no TLS"),
        (format!("{url}\njwks-ca = \"/absent/ca.pem\""), "/absent/ca.pem"),
    ] {
        let told = with(&keys).map(|_| ()).unwrap_err();
        assert!(told.starts_with("jwt: ") && told.contains(why), "{keys}: {told}");
    }
}

#[test]
fn a_file_that_is_read_again_keeps_the_keys_that_were_fetched_at_the_same_place() {
    let with = |url: &str| {
        let rule = "[[jwt.rule]]\nclaim = \"groups\"\nvalue = \"ops\"\nroles = [\"operator\"]\n";
        let text = format!("[jwt]\nissuer = \"i\"\naudiences = [\"a\"]\njwks-url = \"{url}\"\n{rule}");
        read_text(&text).unwrap()
    };
    let set =
        r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;
    let keys = Jwks::parse(set.as_bytes()).unwrap();
    let (here, there) = (with("https://a/keys"), with("https://b/keys"));
    let fetched = here.with_keys(here.remote().unwrap(), &keys).unwrap();
    assert_eq!(fetched.with_keys(here.remote().unwrap(), &keys), None, "no news");
    assert_eq!(there.with_keys(here.remote().unwrap(), &keys), None, "of another place");
    assert_eq!(here.keeping_keys(&fetched), fetched);
    assert_eq!(there.keeping_keys(&fetched), there);
}

#[test]
fn a_name_and_a_token_are_there_once() {
    let one = entry("ci", "sesame", "roles = [\"reader\"]");
    let user = |name: &str, uid: u32| {
        format!("# of this machine\n[[user]]\nuid = {uid}\nname = \"{name}\"\nroles = [\"reader\"]\n")
    };
    for (text, why) in [
        (
            one.clone() + &entry("ci", "other", "roles = [\"reader\"]"),
            "token \"ci\", line 6: has the name of the token in line 2",
        ),
        (user("ana", 1) + &user("ana", 2), "user \"ana\", line 9: has the name of the user in line 4"),
        (user("ci", 1) + &one, "user \"ci\", line 4: has the name of the token in line 7"),
    ] {
        assert!(refusal(&text).starts_with(why), "{}", refusal(&text));
    }
    assert!(
        refusal(&format!("{one}{}", entry("cd", "sesame", "roles = [\"reader\"]"))).contains("same token")
    );
}

#[test]
fn nothing_that_was_written_in_the_file_is_in_what_is_said_of_it() {
    // A token where its hash should be, in a line that does not parse, and in a key that does not exist.
    for text in [
        "[[token]]\nname = \"ci\"\nsha256 = \"gwt_sesame\"\nroles = [\"reader\"]",
        "[[token]]\nname = \"ci\"\nsha256 = gwt_sesame\nroles = [\"reader\"]",
        "[[token]]\nname = \"ci\"\ntoken = \"gwt_sesame\"\nroles = [\"reader\"]",
    ] {
        let told = refusal(text);
        assert!(!told.contains("sesame"), "{told}");
    }
    let book = read_text(&entry("ci", "gwt_sesame", "roles = [\"reader\"]")).unwrap();
    let shown =
        format!("{book:?} {:?} {:?}", bearer("gwt_sesame"), book.identify(&bearer("gwt_sesame"), NOW));
    let hash = Fingerprint::of(&Secret::new("gwt_sesame")).to_string();
    assert!(!shown.contains("sesame") && !shown.contains(&hash), "{shown}");
}

#[test]
fn files_that_it_names_are_found_beside_it_and_watched_with_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ci.token"), "sesame\n").unwrap();
    let path = folder.path().join("auth.toml");
    std::fs::write(&path, "[[token]]\nname = \"ci\"\ntoken-file = \"ci.token\"\nroles = [\"reader\"]\n")
        .unwrap();
    let loaded = load(&path).unwrap();
    assert!(loaded.book.identify(&bearer("sesame"), NOW).is_ok());
    assert!(loaded.files.paths().eq([&path, &folder.path().join("ci.token")]));
    std::fs::remove_file(folder.path().join("ci.token")).unwrap();
    assert!(load(&path).unwrap_err().contains("ci.token"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\[\\[token\\]\\]|\\[jwt\\]|name|sha256|roles|=|\"|\\[|\\]|\n|.){0,40}") {
        let _ = read_text(&text);
    }

    #[test]
    fn no_bytes_that_are_shown_as_a_token_make_it_panic_or_are_known(token in ".{0,200}") {
        let book = read_text(&entry("ci", "sesame", "roles = [\"reader\"]")).unwrap();
        prop_assert_eq!(book.identify(&bearer(&token), NOW).is_ok(), token == "sesame");
    }
}

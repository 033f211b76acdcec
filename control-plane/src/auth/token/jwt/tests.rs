use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::auth::{permission::Permission, roles::Role};

const NOW: u64 = 1_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer of ours, who signs by Ed25519.
struct Signer {
    key: Ed25519KeyPair,
}

impl Signer {
    fn new() -> Self {
        Self { key: Ed25519KeyPair::generate().unwrap() }
    }

    fn jwk(&self, id: &str) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": encode(self.key.public_key())})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        format!("{message}.{}", encode(self.key.sign(message.as_bytes())))
    }

    fn good(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": "EdDSA", "kid": "a"}), claims)
    }
}

fn rule(claim: &str, value: &str, role: Role) -> Rule {
    let grant = Grant { roles: vec![role], ..Grant::default() };
    Rule { claim: claim.into(), value: Pattern::parse(value).unwrap(), grant: Arc::new(grant) }
}

fn issuer(keys: &[Value]) -> Issuer {
    Issuer {
        name: "https://idp.example".into(),
        audiences: vec!["gateway".into()],
        name_claim: "sub".into(),
        keys: Keys::Read(Jwks::parse(json!({"keys": keys}).to_string().as_bytes()).unwrap()),
        rules: vec![
            rule("groups", "gw-operators", Role::Operator),
            rule("realm_access.roles", "view-*", Role::Reader),
            rule("https://example.com/role", "dp", Role::DataPlane),
        ],
    }
}

fn claims() -> Value {
    json!({"iss": "https://idp.example", "aud": "gateway", "sub": "ana", "exp": NOW + 300, "nbf": NOW - 10, "groups": ["x", "gw-operators"]})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn refusal(identified: Result<Identity, CredentialError>) -> String {
    identified.expect_err("it is refused").to_string()
}

#[test]
fn claims_name_and_grant() {
    let signer = Signer::new();
    let issuer = issuer(&[signer.jwk("a")]);
    let identify = |claims: &Value| issuer.identify(&signer.good(claims), at(NOW)).unwrap();
    let ana = identify(&claims());
    assert_eq!((&*ana.name, ana.expires), ("jwt:ana", Some(at(NOW + 300) + LEEWAY)));
    assert!(ana.has(Permission::Operate, None) && !ana.has(Permission::Follow, None));
    assert!(!identify(&with("groups", json!("gw-operators-2"))).has(Permission::Operate, None));
    assert!(
        identify(&with("groups", json!("gw-operators"))).has(Permission::Operate, None),
        "a text is a list of one"
    );
    let nested = with("realm_access", json!({"roles": ["view-all"]}));
    assert!(identify(&nested).has(Permission::Read, None));
    assert!(identify(&with("https://example.com/role", json!("dp"))).has(Permission::Follow, None));
    assert!(identify(&with("aud", json!(["other", "gateway"]))).has(Permission::Operate, None));
}

#[test]
fn each_algorithm_is_verified_by_a_key_of_its_own_kind() {
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    // In DER, 2048 bits are behind two lengths and a zero; the exponent is 65537.
    let n = &rsa.public_key().as_ref()[9..265];
    let point = ec.public_key().as_ref().to_vec();
    let keys = [
        json!({"kty": "RSA", "kid": "r", "alg": "RS256", "use": "sig", "n": encode(n), "e": "AQAB"}),
        json!({"kty": "EC", "crv": "P-256", "kid": "e", "x": encode(&point[1..33]), "y": encode(&point[33..])}),
    ];
    let issuer = issuer(&keys);
    let message = |alg: &str, kid: &str| {
        format!("{}.{}", encode(json!({"alg": alg, "kid": kid}).to_string()), encode(claims().to_string()))
    };
    let by_rsa = |message: &str| {
        let mut signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
        format!("{message}.{}", encode(signature))
    };
    let by_ec = |message: &str| {
        format!("{message}.{}", encode(ec.sign(&SystemRandom::new(), message.as_bytes()).unwrap()))
    };
    assert!(issuer.identify(&by_rsa(&message("RS256", "r")), at(NOW)).is_ok());
    assert!(issuer.identify(&by_ec(&message("ES256", "e")), at(NOW)).is_ok());
    // A key of one kind under the name of another algorithm.
    for token in [
        by_rsa(&message("ES256", "r")),
        by_rsa(&message("RS256", "e")),
        by_ec(&message("RS256", "e")),
        by_ec(&message("ES256", "r")),
    ] {
        assert!(refusal(issuer.identify(&token, at(NOW))).contains("signed by a key"));
    }
}

#[test]
fn no_signature_and_a_public_key_as_a_shared_secret_are_refused() {
    let signer = Signer::new();
    let issuer = issuer(&[signer.jwk("a")]);
    let message = |alg: &str| {
        format!("{}.{}", encode(json!({"alg": alg, "kid": "a"}).to_string()), encode(claims().to_string()))
    };
    for alg in ["none", "None", "NONE", "HS256", "HS512", "RS512", "PS256", ""] {
        let hmac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, signer.key.public_key().as_ref());
        let signed = encode(aws_lc_rs::hmac::sign(&hmac, message(alg).as_bytes()));
        for signature in ["", &signed] {
            let told = refusal(issuer.identify(&format!("{}.{signature}", message(alg)), at(NOW)));
            assert!(told.contains("another algorithm"), "{alg}: {told}");
        }
    }
}

#[test]
fn a_token_is_of_this_issuer_for_us_and_for_now_or_refused() {
    let signer = Signer::new();
    let issuer = issuer(&[signer.jwk("a")]);
    for (claims, why) in [
        (with("iss", json!("https://other")), "another issuer"),
        (with("iss", Value::Null), "another issuer"),
        (with("aud", json!("other")), "another audience"),
        (with("aud", json!([])), "another audience"),
        (with("aud", Value::Null), "another audience"),
        (with("exp", Value::Null), "time that is none (exp)"),
        (with("exp", json!("tomorrow")), "time that is none (exp)"),
        (with("exp", json!(-1)), "time that is none (exp)"),
        (with("exp", json!(1e300)), "time that is none (exp)"),
        (with("exp", json!(NOW - 61)), "has expired"),
        (with("nbf", json!(NOW + 61)), "not valid yet (nbf)"),
        (with("iat", json!(NOW + 61)), "not valid yet (iat)"),
        (with("sub", Value::Null), "names nobody"),
        (with("sub", json!("a\u{1b}[31m")), "names nobody"),
        (with("sub", json!("x".repeat(201))), "names nobody"),
    ] {
        let told = refusal(issuer.identify(&signer.good(&claims), at(NOW)));
        assert!(told.contains(why), "{claims}: {told}");
    }
    for claims in
        [with("exp", json!(NOW - 59)), with("nbf", json!(NOW + 59)), with("exp", json!(NOW as f64 + 0.5))]
    {
        assert!(issuer.identify(&signer.good(&claims), at(NOW)).is_ok(), "{claims}");
    }
}

#[test]
fn a_key_is_found_by_its_name_and_without_one_only_where_there_is_no_choice() {
    let (one, two) = (Signer::new(), Signer::new());
    let unnamed = |signer: &Signer| signer.sign(&json!({"alg": "EdDSA"}), &claims());
    let both = issuer(&[one.jwk("a"), two.jwk("b")]);
    assert!(both.identify(&one.good(&claims()), at(NOW)).is_ok());
    assert!(
        refusal(both.identify(&two.good(&claims()), at(NOW))).contains("wrong signature"),
        "two signs as a"
    );
    assert!(refusal(both.identify(&unnamed(&one), at(NOW))).contains("signed by a key"));
    assert!(issuer(&[one.jwk("a")]).identify(&unnamed(&one), at(NOW)).is_ok());
    for (header, why) in [
        (json!({"alg": "EdDSA", "kid": "c"}), "signed by a key"),
        (json!({"alg": "EdDSA", "kid": 7}), "kid that is no text"),
        (json!({"alg": "EdDSA", "kid": "a", "crit": ["b64"]}), "extensions"),
        (json!(["alg"]), "header that is no JSON object"),
    ] {
        assert!(refusal(both.identify(&one.sign(&header, &claims()), at(NOW))).contains(why), "{header}");
    }
}

#[test]
fn keys_of_no_use_are_left_out_and_a_set_without_any_is_refused() {
    let refused = |keys: Value| Jwks::parse(json!({"keys": keys}).to_string().as_bytes()).unwrap_err();
    let signer = Signer::new();
    let for_encryption =
        json!({"kty": "OKP", "crv": "Ed25519", "use": "enc", "x": encode(signer.key.public_key())});
    let short = json!({"kty": "RSA", "n": encode([0xff; 128]), "e": "AQAB"});
    let padded = json!({"kty": "RSA", "n": encode([&[0; 200][..], &[0xff; 128]].concat()), "e": "AQAB"});
    let other = json!({"kty": "oct", "k": "c2VjcmV0"});
    for keys in [json!([]), json!([for_encryption]), json!([short]), json!([padded]), json!([other])] {
        assert!(refused(keys.clone()).contains("has no key"), "{keys}");
    }
    assert!(refused(json!([signer.jwk("a"), signer.jwk("a")])).contains("two keys"));
    assert!(refused(json!(vec![signer.jwk("a"); 101])).contains("101 keys"));
    assert!(Jwks::parse(b"{").unwrap_err().contains("is no JWK set"));
    assert!(Jwks::parse(&vec![b' '; jwks_limit() + 1]).unwrap_err().contains("larger"));
}

fn jwks_limit() -> usize {
    super::super::jwks::MAX_FILE_BYTES
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(parts in proptest::collection::vec("[A-Za-z0-9_=.{}\" -]{0,60}", 0..5)) {
        let signer = Signer::new();
        let issuer = issuer(&[signer.jwk("a")]);
        prop_assert!(issuer.identify(&parts.join("."), at(NOW)).is_err());
        let encoded: Vec<_> = parts.iter().map(encode).collect();
        prop_assert!(issuer.identify(&encoded.join("."), at(NOW)).is_err());
    }

    #[test]
    fn a_token_that_was_changed_anywhere_is_refused(position: prop::sample::Index, byte in proptest::char::range('0', 'z')) {
        let signer = Signer::new();
        let issuer = issuer(&[signer.jwk("a")]);
        let token = signer.good(&claims());
        let mut changed = token.clone().into_bytes();
        let position = position.index(changed.len());
        prop_assume!(changed[position] != byte as u8 && changed[position] != b'.');
        changed[position] = byte as u8;
        prop_assert!(issuer.identify(std::str::from_utf8(&changed).unwrap(), at(NOW)).is_err());
    }

    #[test]
    fn no_set_of_keys_makes_it_panic(text in "(\\{|\\}|\\[|\\]|\"keys\"|\"kty\"|\"RSA\"|\"n\"|:|,|.){0,40}") {
        let _ = Jwks::parse(text.as_bytes());
    }
}

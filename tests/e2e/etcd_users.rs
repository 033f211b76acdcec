//! An etcd that believes certificates of an authority only, and asks its callers who they are: by a password, or by the name in
//! the certificate.

use gateway_tests::{ControlPlane, Etcd, eventually};

use crate::{
    etcd::{find, register, renew, request},
    etcd_access::{certificates, checked},
};

/// It has the users `root` and `gw`, who may do everything below `/gw/`.
struct Locked {
    etcd: Etcd,
    folder: tempfile::TempDir,
}

impl Locked {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        certificates(folder.path());
        std::fs::write(folder.path().join("password"), "secret\n").unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (certificate, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
        let etcd = Etcd::encrypted(&[
            "--cert-file",
            &certificate,
            "--key-file",
            &key,
            "--client-cert-auth",
            "--trusted-ca-file",
            &ca,
        ]);
        let locked = Self { etcd, folder };
        eventually("etcd can be used", async || {
            match checked(&locked.etcd.store("gw"), &as_strs(&locked.shown("client"))) {
                (true, _) => Ok(()),
                (false, said) => Err(said),
            }
        })
        .await;
        for user in ["root", "gw"] {
            locked.ctl(&["user", "add", &format!("{user}:secret")]);
            locked.ctl(&["role", "add", user]);
            locked.ctl(&["user", "grant-role", user, user]);
        }
        locked.ctl(&["role", "grant-permission", "gw", "--prefix=true", "readwrite", "/gw/"]);
        locked.ctl(&["auth", "enable"]);
        locked
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// By the certificate of nobody in particular.
    fn ctl(&self, args: &[&str]) {
        let [ca, certificate, key] = ["ca.pem", "client.pem", "client.key"].map(|name| self.path(name));
        self.etcd.ctl(&[&["--cacert", &ca, "--cert", &certificate, "--key", &key], args].concat());
    }

    /// All tokens are void from now on, and no connection ends.
    fn forget_tokens(&self) {
        for verb in ["disable", "enable"] {
            self.ctl(&["--user", "root:secret", "auth", verb]);
        }
    }

    /// Flags of whoever shows this certificate.
    fn shown(&self, name: &str) -> Vec<String> {
        let [ca, certificate, key] =
            ["ca.pem", &format!("{name}.pem"), &format!("{name}.key")].map(|name| self.path(name));
        ["--store-tls-ca", &ca, "--store-tls-cert", &certificate, "--store-tls-key", &key]
            .map(str::to_owned)
            .into()
    }

    /// The store of the user `gw`, by name.
    fn store_of_gw(&self) -> String {
        self.etcd.store("gw").replace("etcd://", "etcd://gw@")
    }
}

fn as_strs(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// Each of the two takes changes, the other one hears of them, and both renew the lease.
async fn go_on([one, other]: [&ControlPlane; 2], round: u8, lease: &str) {
    for (number, control, elsewhere) in [(1, one, other), (2, other, one)] {
        let id = format!("r-{round}-{number}");
        let wish = request(&id, &format!("10.0.{round}.{number}:80"), None);
        eventually("changes are taken", async || {
            let taken = control.registry().register(wish.clone()).await;
            taken.map(drop).map_err(|status| status.to_string())
        })
        .await;
        eventually("the other one knows", async || find(elsewhere, &id).await.ok_or_else(|| "no".to_owned()))
            .await;
        eventually("renewals are taken", async || {
            renew(control, "kept", lease).await.map_err(|status| status.to_string())
        })
        .await;
    }
}

/// Two control planes go on when etcd is restarted, and when all of its tokens are void.
async fn outlast(mut locked: Locked, [one, other]: [&ControlPlane; 2]) {
    let lease = register(one, request("kept", "10.0.9.1:80", Some(60))).await.lease_id;
    go_on([one, other], 1, &lease).await;
    locked.etcd.kill(0);
    locked.etcd.restart(0);
    go_on([one, other], 2, &lease).await;
    locked.forget_tokens();
    go_on([one, other], 3, &lease).await;
}

#[tokio::test]
async fn a_password_is_shown_over_tls_and_again_when_etcd_has_forgotten_who_we_are_by_etcd() {
    let locked = Locked::start().await;
    let (store, password) = (locked.store_of_gw(), locked.path("password"));
    let certificate = locked.shown("client");
    let flags = [as_strs(&certificate), vec!["--store-password-file", &password]].concat();
    let (is_fine, said) = checked(&store, &as_strs(&certificate));
    assert!(!is_fine && said.contains("does not let"), "without the password: {said}");
    let one = ControlPlane::start_on(store.clone(), &flags).await;
    let other = ControlPlane::start_on(store, &flags).await;
    outlast(locked, [&one, &other]).await;
}

#[tokio::test]
async fn the_common_name_of_a_certificate_is_the_user_and_needs_no_password_by_etcd() {
    let locked = Locked::start().await;
    let certificate = locked.shown("gw");
    let flags = as_strs(&certificate);
    let (is_fine, said) = checked(&locked.etcd.store("gw"), &as_strs(&locked.shown("client")));
    assert!(!is_fine && said.contains("does not let"), "another name: {said}");
    // The location may name the user, and need not.
    let one = ControlPlane::start_on(locked.store_of_gw(), &flags).await;
    let other = ControlPlane::start_on(locked.etcd.store("gw"), &flags).await;
    outlast(locked, [&one, &other]).await;
}

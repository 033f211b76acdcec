//! Who may look at the admin side, and how.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::builder::FalseyValueParser;
use gateway_runtime::{
    Failure,
    credentials::TokenFile,
    tls::{Identity, Tls, TlsFiles},
};

use crate::admin::Access;

/// Flags of the admin side.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Admin side")]
pub struct AdminArgs {
    /// Where /metrics, /livez, /readyz, /breakers and /snapshot are served, as IP:PORT; port 0 takes a free one. Keep it
    /// away from clients
    #[arg(long, env = "GW_ADMIN_LISTEN", default_value = "127.0.0.1:7401", value_name = "IP:PORT")]
    pub admin_listen: SocketAddr,
    /// Serve it with TLS: the certificate chain in PEM; read again when it changes
    #[arg(long, env = "GW_ADMIN_TLS_CERTIFICATE", value_name = "FILE", requires = "admin_tls_key")]
    pub admin_tls_certificate: Option<PathBuf>,
    /// Its key in PEM
    #[arg(long, env = "GW_ADMIN_TLS_KEY", value_name = "FILE", requires = "admin_tls_certificate")]
    pub admin_tls_key: Option<PathBuf>,
    /// Show it only to whoever shows a certificate that one of these authorities has signed, in PEM, or the token; probes are
    /// for everybody
    #[arg(long, env = "GW_ADMIN_TLS_CLIENT_CA", value_name = "FILE", requires = "admin_tls_certificate")]
    pub admin_tls_client_ca: Option<PathBuf>,
    /// Show it only to whoever sends the token in this file, as authorization: Bearer TOKEN; probes are for everybody; read
    /// again when it changes
    #[arg(long, env = "GW_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// Serve it beyond this machine although there is no TLS, or nobody is asked who he is: whoever reaches it sees every
    /// service and address. And show the token of --control-plane-token-file to control planes beyond this machine without TLS:
    /// whoever is on the way reads it
    #[arg(long, env = "GW_INSECURE", value_parser = FalseyValueParser::new())]
    pub insecure: bool,
}

impl AdminArgs {
    /// Reads the files, and checks that it may be served where it is to be.
    ///
    /// # Errors
    /// A usage [`Failure`] that names the flag or the file.
    pub(crate) fn access(&self) -> Result<Arc<Access>, Failure> {
        let pair = self.admin_tls_certificate.clone().zip(self.admin_tls_key.clone());
        let tls = pair.map(|(certificate, key)| {
            let files = TlsFiles {
                identities: vec![Identity { certificate, key }],
                client_ca: self.admin_tls_client_ca.clone(),
                // Those who show none may have a token, and probes have neither.
                takes_anonymous: true,
                protocols: &[b"http/1.1"],
            };
            Tls::load(files).map(Arc::new)
        });
        let token = self.admin_token_file.clone().map(TokenFile::open).transpose();
        let token = token.map_err(|failure| Failure::usage(format!("--admin-token-file {failure}")))?;
        let access = Access {
            tls: tls.transpose()?,
            takes_certificates: self.admin_tls_client_ca.is_some(),
            token,
            is_insecure: self.insecure,
        };
        access.check("--admin-listen", self.admin_listen)?;
        Ok(Arc::new(access))
    }
}

//! A page in Chromium, driven from a test: pieces of script go in, what they yield comes out.
//!
//! The pieces are bodies of functions of `page`, `until(what, look)`, `breaches(page)` and `complaints`, as
//! `tests/e2e/browser/driver.js` has them; `page` is Playwright's, whose actions wait until they can be done.

use std::{net::SocketAddr, path::Path, process::Command};

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use crate::{Process, http1, tools};

/// A browser with one page, ended when this is dropped.
#[derive(Debug)]
pub struct Browser {
    _process: Process,
    listen: SocketAddr,
}

impl Browser {
    /// Starts one. `url` is what its pieces of script know as `url`.
    pub async fn start(url: &str) -> Self {
        let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/browser/driver.js");
        let mut command = Command::new(tools::node());
        command.arg(driver).arg(tools::browser_modules()).arg(tools::chromium()).arg(url);
        let mut process = Process::spawn_group("browser", &mut command);
        let ready = process.ready().await;
        let listen = ready["listen"].as_str().and_then(|text| text.parse().ok());
        Self { listen: listen.unwrap_or_else(|| panic!("no listen in {ready}")), _process: process }
    }

    /// Runs a piece of script, and yields what it does.
    ///
    /// # Panics
    /// When it throws, with what the page showed then.
    pub async fn run(&self, script: &str) -> Value {
        let mut request = http1::request(Method::POST, "/");
        *request.body_mut() = Bytes::copy_from_slice(script.as_bytes());
        let answer = http1::send(self.listen, request).await;
        let said = String::from_utf8_lossy(answer.body());
        assert_eq!(answer.status(), 200, "{script}\n{said}");
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("not JSON: {said}"))
    }
}

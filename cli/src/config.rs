//! The file of contexts: named control planes, and how to talk to each.
//!
//! A flag goes before the environment, that before the context in use, that before the default.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Exit};

/// What the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Contexts {
    /// The one in use, where nobody says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current_context: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One of them. What is not set is as it would be without a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Context {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) output: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<String>,
    /// Authorities that are believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<String>,
    /// What is shown: a certificate and its key, or a token. Only where they are, never what is in them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cert_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<String>,
    /// Whether the token is shown beyond this machine without TLS: true or false.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "said_or_so")]
    pub(crate) insecure: Option<String>,
}

/// Words, or a truth that whoever writes the file by hand leaves without quotes.
fn said_or_so<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Said(String),
        So(bool),
    }
    Ok(Some(match Value::deserialize(deserializer)? {
        Value::Said(text) => text,
        Value::So(truth) => truth.to_string(),
    }))
}

impl Context {
    /// Settings by name.
    pub(crate) const KEYS: [&str; 8] =
        ["endpoint", "output", "timeout", "ca-file", "cert-file", "key-file", "token-file", "insecure"];

    /// The path of a file, by the setting's name.
    pub(crate) fn file(&self, key: &str) -> Option<&String> {
        match key {
            "ca-file" => self.ca_file.as_ref(),
            "cert-file" => self.cert_file.as_ref(),
            "key-file" => self.key_file.as_ref(),
            "token-file" => self.token_file.as_ref(),
            _ => None,
        }
    }

    /// The place of a setting; `None` when there is none of this name.
    pub(crate) fn setting(&mut self, key: &str) -> Option<&mut Option<String>> {
        match key {
            "endpoint" => Some(&mut self.endpoint),
            "output" => Some(&mut self.output),
            "timeout" => Some(&mut self.timeout),
            "ca-file" => Some(&mut self.ca_file),
            "cert-file" => Some(&mut self.cert_file),
            "key-file" => Some(&mut self.key_file),
            "token-file" => Some(&mut self.token_file),
            "insecure" => Some(&mut self.insecure),
            _ => None,
        }
    }
}

/// Where the file is: `GWCTL_CONFIG`, else `gateway/gwctl.toml` below `XDG_CONFIG_HOME` or `~/.config`; `None` without a home.
pub(crate) fn path() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("GWCTL_CONFIG").or_else(|| {
        // As the specification has it, a relative one counts for nothing.
        let below = set("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
        let below = below.or_else(|| Some(set("HOME")?.join(".config")))?;
        Some(below.join("gateway/gwctl.toml"))
    })
}

impl Contexts {
    /// Reads the file; a missing one says nothing.
    ///
    /// # Errors
    /// A usage error when it cannot be read, with the line at fault.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = path else { return Ok(Self::default()) };
        let refused = |why: String| {
            Error::new(Exit::Usage, format!("cannot read the configuration {}", path.display()))
                .because(why)
                .hint("mend it, or choose another one with GWCTL_CONFIG")
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(refused(error.to_string())),
        };
        toml::from_str(&text).map_err(|error| refused(error.to_string().trim_end().to_owned()))
    }

    /// Writes the file whole: whoever reads it meanwhile sees the old one or the new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn save(&self, path: Option<&Path>) -> Result<(), Error> {
        let failed = |why: String| Error::new(Exit::Failed, format!("cannot write the configuration: {why}"));
        let path = path.ok_or_else(|| failed("there is no home directory; set GWCTL_CONFIG".into()))?;
        let text = toml::to_string(self).map_err(|error| failed(error.to_string()))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            std::io::Write::write_all(&mut file, text.as_bytes())?;
            file.persist(path).map(drop).map_err(|error| error.error)
        };
        write().map_err(|error| failed(format!("{}: {error}", path.display())))
    }

    /// The context in use: the one that was asked for, or the current one.
    ///
    /// # Errors
    /// [`Exit::NotFound`] when there is none of that name.
    pub(crate) fn in_use(&self, asked: Option<&str>) -> Result<Option<(&str, &Context)>, Error> {
        let Some(name) = asked.or(self.current_context.as_deref()) else { return Ok(None) };
        match self.contexts.get_key_value(name) {
            Some((name, context)) => Ok(Some((name, context))),
            None => Err(self.unknown(name)),
        }
    }

    /// That there is no such context, and which there are.
    pub(crate) fn unknown(&self, name: &str) -> Error {
        let names: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
        let mut error = Error::new(Exit::NotFound, format!("there is no context \"{name}\""));
        if !names.is_empty() {
            error.details.push(format!("contexts: {}", names.join(", ")));
        }
        if let Some(nearest) = gateway_proto::nearest::nearest(name, names) {
            error.hints.push(format!("did you mean \"{nearest}\"?"));
        }
        error.hint(format!("make it with  gwctl config set -c {name} endpoint URL"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts() -> Contexts {
        let context = |endpoint: &str| Context { endpoint: Some(endpoint.into()), ..Default::default() };
        Contexts {
            current_context: Some("prod".into()),
            contexts: [("prod".to_owned(), context("http://p:1")), ("lab".to_owned(), context("http://l:1"))]
                .into(),
        }
    }

    #[test]
    fn what_is_saved_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/gwctl.toml");
        assert_eq!(Contexts::load(Some(&path)).unwrap(), Contexts::default());
        contexts().save(Some(&path)).unwrap();
        assert_eq!(Contexts::load(Some(&path)).unwrap(), contexts());
    }

    #[test]
    fn a_truth_may_stand_without_quotes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gwctl.toml");
        for (written, read) in [("true", Some("true")), ("\"false\"", Some("false"))] {
            std::fs::write(&path, format!("[contexts.a]\ninsecure = {written}\n")).unwrap();
            let insecure = Contexts::load(Some(&path)).unwrap().contexts["a"].insecure.clone();
            assert_eq!(insecure.as_deref(), read);
        }
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_told_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gwctl.toml");
        std::fs::write(&path, "current-context = \"a\"\n[contexts.a]\nendpont = \"x\"\n").unwrap();
        let error = Contexts::load(Some(&path)).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.details[0].contains("line 3") && error.details[0].contains("endpont"), "{error:?}");
    }

    #[test]
    fn the_context_that_is_asked_for_goes_before_the_current_one() {
        let contexts = contexts();
        assert_eq!(contexts.in_use(None).unwrap().unwrap().0, "prod");
        assert_eq!(contexts.in_use(Some("lab")).unwrap().unwrap().0, "lab");
        assert_eq!(Contexts::default().in_use(None).unwrap(), None);
        let error = contexts.in_use(Some("labs")).unwrap_err();
        assert_eq!((error.exit, error.hints[0].as_str()), (Exit::NotFound, "did you mean \"lab\"?"));
    }
}

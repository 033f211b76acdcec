//! Which build this is, for those who look at a running process.

/// What is known of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Build {
    /// The revision of its source, as the environment variable `GATEWAY_REVISION` named it when it was built; else `unknown`.
    pub revision: &'static str,
    /// The version of the compiler.
    pub rustc: &'static str,
}

/// This one.
pub const BUILD: Build = Build { revision: env!("GATEWAY_REVISION"), rustc: env!("GATEWAY_RUSTC") };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_knows_its_compiler() {
        assert!(BUILD.rustc.starts_with("1."), "{BUILD:?}");
        assert!(!BUILD.revision.is_empty());
    }
}

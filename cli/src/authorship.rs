//! Who asks for a change, and why: it is kept with the change, and everybody who looks at it later reads it.

/// Flags of every command that changes something for others.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Authorship {
    /// Why, for those who look at it later
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) who: Author,
}

/// The flag for who asks, where the reason is a flag of its own.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Author {
    /// Who asks; where callers show who they are, that counts instead. Empty: the address that the control plane sees
    #[arg(long, env = "USER", default_value = "", value_name = "NAME", hide_default_value = true)]
    pub(crate) author: String,
}

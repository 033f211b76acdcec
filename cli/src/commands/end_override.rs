//! `gwctl end-override`: ends before its time what an operator decided against the rules.

use gateway_proto::v1::{EndOverrideRequest, EndOverrideResponse};

use crate::{
    authorship::Authorship,
    control::Control,
    error::{Error, Exit},
    output::{Format, Output},
    terminal::printable,
};

/// Flags of `gwctl end-override`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its id, as `gwctl get overrides -o name` shows it
    #[arg(value_name = "OVERRIDE")]
    id: String,
    #[command(flatten)]
    authorship: Authorship,
}

/// Ends the override.
///
/// # Errors
/// When there is none, and what the control plane refuses.
pub(crate) async fn run(args: Args, control: &Control, output: &Output) -> Result<(), Error> {
    let request = EndOverrideRequest {
        override_id: args.id.clone(),
        reason: args.authorship.reason,
        author: args.authorship.who.author,
    };
    let response = control.end_override(request).await?;
    if !response.ended {
        let headline = format!("there is no override \"{}\"", args.id);
        return Err(Error::new(Exit::NotFound, headline).hint("gwctl get overrides"));
    }
    match output.format {
        Format::Json => output.message(&response),
        Format::Name => output.data(format_args!("{}\n", printable(&args.id))),
        Format::Table | Format::Wide => output.data(render(&args.id, &response)),
    }
}

fn render(id: &str, response: &EndOverrideResponse) -> String {
    format!("{} ended: the rules go on   rev {}\n", printable(id), response.revision)
}

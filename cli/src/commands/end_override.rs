//! `gwctl end-override`: ends before its time what an operator decided against the rules.

use gateway_proto::v1::{EndOverrideRequest, EndOverrideResponse};

use crate::{
    authorship::Authorship,
    control::Control,
    error::Error,
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

/// Ends the override; one that is not there any more is no error.
///
/// # Errors
/// What the control plane refuses.
pub(crate) async fn run(args: Args, control: &Control, output: &Output) -> Result<(), Error> {
    let request = EndOverrideRequest {
        override_id: args.id.clone(),
        reason: args.authorship.reason,
        author: args.authorship.who.author,
    };
    let response = control.end_override(request).await?;
    match output.format {
        Format::Json => output.message(&response),
        Format::Name => output.data(format_args!("{}\n", printable(&args.id))),
        Format::Table | Format::Wide => output.data(render(&args.id, &response)),
    }
}

fn render(id: &str, response: &EndOverrideResponse) -> String {
    let outcome = if response.ended { "ended: the rules go on" } else { "is not there: nothing to end" };
    format!("{} {outcome}   rev {}\n", printable(id), response.revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_whether_there_was_something_to_end() {
        let told = |ended| render("guard/orders", &EndOverrideResponse { ended, revision: 9 });
        assert_eq!(told(true), "guard/orders ended: the rules go on   rev 9\n");
        assert_eq!(told(false), "guard/orders is not there: nothing to end   rev 9\n");
    }
}

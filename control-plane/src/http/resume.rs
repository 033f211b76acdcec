//! Where a stream of events goes on after it broke: the `id` of each event, and what `Last-Event-ID` means. Pure.

use gateway_proto::Invalid;
use prost_reflect::{DynamicMessage, ReflectMessage, Value as Field};

/// What a reader that reconnects sends back.
pub(super) const LAST_EVENT_ID: &str = "last-event-id";

/// From where a stream goes on once this response was seen. `None`: only what comes later tells, or it never does.
pub(super) fn position(response: &DynamicMessage) -> Option<String> {
    let text = |message: &DynamicMessage, name: &str| {
        message.get_field_by_name(name).and_then(|value| value.as_str().map(str::to_owned))
    };
    let position = if let Some(events) = response.get_field_by_name("events") {
        text(events.as_list()?.last()?.as_message()?, "event_id")?
    } else {
        let epoch = text(response, "epoch").filter(|epoch| !epoch.is_empty())?;
        let revision = response.get_field_by_name("revision")?.as_i64()?;
        format!("{epoch}:{revision}")
    };
    // A line break in it would end the line that it stands in.
    let is_one_line = !position.is_empty() && !position.contains(|c: char| c.is_control());
    is_one_line.then_some(position)
}

/// Lets a watch begin where [`position`] was. It goes before what the path's query says, which is from the first time.
pub(super) fn resume(request: &mut DynamicMessage, position: &str) -> Result<(), Invalid> {
    let refused = || Invalid::new(LAST_EVENT_ID, "is not the id of an event of this stream");
    let descriptor = request.descriptor();
    if let Some(after) = descriptor.get_field_by_name("after_event_id") {
        request.set_field(&after, Field::String(position.to_owned()));
    } else if let Some(epoch) = descriptor.get_field_by_name("resume_epoch") {
        let (of, revision) = position.rsplit_once(':').ok_or_else(refused)?;
        let revision = revision.parse().map_err(|_| refused())?;
        request.set_field(&epoch, Field::String(of.to_owned()));
        request.set_field_by_name("resume_revision", Field::I64(revision));
    }
    Ok(())
}

//! What one control plane keeps for itself alone, as whoever moves it elsewhere has it: over one stream, which is also the fence.
//!
//! Only that control plane has the store open, so it refuses changes for as long as the stream is there that has asked for it, and writes a fence
//! only once all has moved. If either side ends before that, for whatever reason, nothing is left to be taken away.

use std::{collections::HashSet, time::Duration};

use gateway_proto::{
    reason,
    v1::{self, move_store_request::Step, move_store_response::Answer, stored_record::Record as Wire},
};
use prost::Message as _;
use tokio::{sync::mpsc, time::timeout};
use tonic::Streaming;
use tonic_types::StatusExt;

use super::{Commit, Fence, Loaded, Store, StoreError, stored};
use crate::registry::{Item, Mutation, Revision, SharedItem};

/// The control plane has so long for each message: what is slowest of it is a change of its file.
const PATIENCE: Duration = Duration::from_secs(30);
/// Records in a message have this many bytes, or one more record than that.
const PART_BYTES: usize = 256 * 1024;

/// The other end of the stream.
#[derive(Debug)]
pub struct Served {
    /// `None`: it was given up.
    requests: Option<mpsc::Sender<v1::MoveStoreRequest>>,
    responses: Streaming<v1::MoveStoreResponse>,
}

impl Served {
    /// By a call of `MoveStore` that was let in.
    pub fn new(
        requests: mpsc::Sender<v1::MoveStoreRequest>,
        responses: Streaming<v1::MoveStoreResponse>,
    ) -> Self {
        Self { requests: Some(requests), responses }
    }

    async fn ask(&mut self, step: Step) -> Result<Answer, NoAnswer> {
        let request = v1::MoveStoreRequest { step: Some(step) };
        if let Some(requests) = &self.requests {
            // Why a stream takes no more is in its answers.
            let _ = requests.send(request).await;
        }
        self.answer().await
    }

    async fn answer(&mut self) -> Result<Answer, NoAnswer> {
        Err(match timeout(PATIENCE, self.responses.message()).await {
            Ok(Ok(Some(response))) => return response.answer.ok_or_else(unexpected),
            Ok(Ok(None)) => NoAnswer::Lost("the control plane has ended the move".into()),
            Ok(Err(status)) => {
                let said =
                    status.get_details_error_info().is_some_and(|info| info.reason == reason::MOVE_REFUSED);
                let why = status.message().to_owned();
                if said { NoAnswer::Refused(why) } else { NoAnswer::Lost(why) }
            }
            Err(_) => {
                NoAnswer::Lost(format!("the control plane has not answered within {}s", PATIENCE.as_secs()))
            }
        })
    }
}

/// Why there is none.
enum NoAnswer {
    /// It is known that nothing was done, and that the fence is gone.
    Refused(String),
    /// It is not.
    Lost(String),
}

impl From<NoAnswer> for StoreError {
    fn from(no: NoAnswer) -> Self {
        let (NoAnswer::Refused(why) | NoAnswer::Lost(why)) = no;
        Self::Unavailable(why)
    }
}

impl Store for Served {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        let mut answer = self.ask(Step::Read(v1::ReadStore {})).await?;
        let mut items = Vec::new();
        loop {
            let Answer::Content(part) = answer else { return Err(unexpected().into()) };
            for record in part.records {
                items.push(from_wire(record).map_err(StoreError::Unavailable)?);
            }
            if part.complete {
                let (epoch, revision) = (part.epoch, part.revision);
                return Ok(Loaded {
                    epoch,
                    revision,
                    items,
                    kept: HashSet::new(),
                    owes: false,
                    followers: None,
                });
            }
            answer = self.answer().await?;
        }
    }

    async fn commit(&mut self, _base: Revision, _group: &[Mutation]) -> Result<Commit, StoreError> {
        Err(StoreError::Unavailable("only its control plane writes to it".into()))
    }

    /// What it says of having moved is true of the revision `base` only, which it has to name. Without a fence, the stream ends: then it takes changes again,
    /// also if it is out of reach and learns of it later.
    async fn fence(&mut self, fence: Option<Fence>, base: Option<Revision>) -> Result<bool, StoreError> {
        match (fence, base) {
            (Some(Fence::Moving { to }), _) => match self.ask(Step::Close(v1::CloseStore { to })).await? {
                Answer::Closed(_) => Ok(true),
                _ => Err(unexpected().into()),
            },
            (Some(Fence::Moved { .. }), Some(revision)) => {
                match self.ask(Step::End(v1::EndMove { revision })).await {
                    Ok(Answer::Ended(_)) => Ok(true),
                    Ok(_) => Err(unexpected().into()),
                    Err(NoAnswer::Refused(_)) => Ok(false),
                    Err(lost) => Err(lost.into()),
                }
            }
            (None, _) => {
                self.requests = None;
                let ended = async { while let Ok(Some(_)) = self.responses.message().await {} };
                let _ = timeout(PATIENCE, ended).await;
                Ok(true)
            }
            (Some(fence), _) => {
                Err(StoreError::Unavailable(format!("no control plane says of its store: {fence}")))
            }
        }
    }
}

fn unexpected() -> NoAnswer {
    NoAnswer::Lost("the control plane answers something else than was asked".into())
}

/// All that a registry keeps, in messages of bounded size, the last of which is complete.
pub(crate) struct Parts<'a, I: Iterator<Item = SharedItem>> {
    epoch: &'a str,
    revision: Revision,
    items: std::iter::Peekable<I>,
    is_complete: bool,
}

/// As it was at this revision.
pub(crate) fn parts(
    epoch: &str,
    revision: Revision,
    items: Vec<SharedItem>,
) -> Parts<'_, impl Iterator<Item = SharedItem>> {
    Parts { epoch, revision, items: items.into_iter().peekable(), is_complete: false }
}

impl<I: Iterator<Item = SharedItem>> Iterator for Parts<'_, I> {
    type Item = v1::StoreContent;

    fn next(&mut self) -> Option<v1::StoreContent> {
        if self.is_complete {
            return None;
        }
        let (mut records, mut size) = (Vec::new(), 0);
        while size < PART_BYTES
            && let Some(item) = self.items.next()
        {
            let record = to_wire(&item.to_item());
            size += record.encoded_len();
            records.push(record);
        }
        self.is_complete = self.items.peek().is_none();
        let (epoch, revision) = (self.epoch.to_owned(), self.revision);
        Some(v1::StoreContent { epoch, revision, records, complete: self.is_complete })
    }
}

fn to_wire(item: &Item) -> v1::StoredRecord {
    let bytes = stored::encode(item);
    let record = match item {
        Item::Replica(_) => Wire::Replica(bytes),
        Item::Policy(_) => Wire::Policy(bytes),
        Item::Override(_) => Wire::Override(bytes),
        Item::Route(_) => Wire::Route(bytes),
    };
    v1::StoredRecord { record: Some(record) }
}

/// # Errors
/// What is not understood, or not all of it: a copy would lack the rest.
fn from_wire(record: v1::StoredRecord) -> Result<Item, String> {
    let of_another_version =
        || "a record has what this version does not know: use the gwctl of its control plane".to_owned();
    let record = record.record.ok_or_else(of_another_version)?;
    let (decoded, bytes) = match &record {
        Wire::Replica(bytes) => (stored::decode_replica(bytes).map(Item::from), bytes),
        Wire::Policy(bytes) => (stored::decode_policy(bytes), bytes),
        Wire::Override(bytes) => (stored::decode_override(bytes), bytes),
        Wire::Route(bytes) => (stored::decode_route(bytes), bytes),
    };
    let item = decoded.map_err(|why| format!("a record cannot be read: {why}"))?;
    // Of the same length, for maps have no order.
    if stored::encode(&item).len() == bytes.len() { Ok(item) } else { Err(of_another_version()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::registry::{
        Record, View,
        arbitrary::{carried_out, choices},
    };
    use crate::store::stored::tests::record;

    /// All of a view, as it is told.
    fn all_of(view: &View) -> Vec<v1::StoreContent> {
        parts("e", view.revision(), view.shared_items().collect()).collect()
    }

    fn taken_in(parts: Vec<v1::StoreContent>) -> Vec<Item> {
        parts.into_iter().flat_map(|part| part.records).map(|record| from_wire(record).unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn whatever_a_registry_keeps_arrives_as_it_is(choices in choices(60)) {
            let mut view = View::default();
            carried_out(&choices).into_iter().for_each(|(committed, _, _)| drop(view.apply(committed)));
            let told = all_of(&view);
            prop_assert_eq!(told.iter().filter(|part| part.complete).count(), 1);
            prop_assert!(told.iter().all(|part| part.epoch == "e" && part.revision == view.revision()));
            prop_assert!(told.last().is_some_and(|part| part.complete));
            prop_assert_eq!(taken_in(told), view.items().collect::<Vec<_>>());
        }
    }

    #[test]
    fn much_is_told_in_messages_of_bounded_size_and_nothing_in_one() {
        let of = |number: u32| {
            Item::from(Record { version: "v".repeat(60).into(), ..record(&format!("r-{number}")) })
        };
        let view = View::new(9, (0..5000).map(of));
        let told = all_of(&view);
        assert!(told.len() > 2);
        assert!(told.iter().all(|part| part.encoded_len() < 2 * PART_BYTES));
        assert_eq!(taken_in(told).len(), 5000);
        let nothing = all_of(&View::default());
        assert!(nothing.len() == 1 && nothing[0].complete && nothing[0].records.is_empty());
    }

    #[test]
    fn what_is_copied_out_of_a_view_to_be_told_is_a_pointer_for_each_record() {
        let view = View::new(9, [Item::from(record("r-1"))]);
        let items: Vec<_> = view.shared_items().collect();
        let [SharedItem::Replica(copied)] = &items[..] else { panic!("{items:?}") };
        assert!(view.replicas().all(|kept| std::sync::Arc::ptr_eq(kept, copied)));
    }

    #[test]
    fn a_record_that_is_not_understood_to_its_last_byte_is_not_moved() {
        let Some(Wire::Replica(bytes)) = to_wire(&record("r-1").into()).record else { panic!() };
        let refused =
            |bytes: Vec<u8>| from_wire(v1::StoredRecord { record: Some(Wire::Replica(bytes)) }).unwrap_err();
        // A field of a later version: number 500, a varint.
        let newer = [&bytes[..], &[0xa0, 0x1f, 1]].concat();
        assert!(refused(newer).contains("use the gwctl of its control plane"));
        assert!(refused(bytes[1..].to_vec()).contains("cannot be read"));
        assert!(from_wire(v1::StoredRecord { record: None }).is_err());
    }
}

//! Everything from one store into another one, which is empty, while control planes use the first.
//!
//! ```text
//!  source   changes are taken ──────┤ fence: refused, renewals go on ├─ "it has moved to …"
//!  target   ├ fence ─ all of it ─────── what has changed ─ compared ──────┤ open
//! ```
//!
//! The fence is in the store itself, in one transaction with which every commit of a control plane conflicts; or, where one control plane has
//! the store to itself, it is that one's word for as long as it is [asked](super::Served). So what was acknowledged is durable before it, and
//! read after it. At no moment do both stores take changes.

mod copy;

use std::time::Duration;

pub(super) use self::copy::Copy;
#[cfg(test)]
pub(super) use self::copy::contents;
use super::{Fence, Store, StoreError};
use crate::{clock, registry::Revision};

/// How the two stores are called.
#[derive(Debug, Clone, Copy)]
pub struct Locations<'a> {
    /// The one that is copied.
    pub from: &'a str,
    /// The one that is filled.
    pub to: &'a str,
}

/// What was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Replicas, policies, overrides and routes.
    pub records: usize,
    /// How many were written, or removed again, because they had changed meanwhile.
    pub changed: usize,
    /// How long no changes were taken.
    pub refused_for: Duration,
    /// Of the store that they came from.
    pub from: Revision,
    /// Of the store that they are in.
    pub to: Revision,
}

/// Which of the two stores could not do it, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// The one that is copied.
    #[error(transparent)]
    From(StoreError),
    /// The one that is filled.
    #[error(transparent)]
    To(StoreError),
}

/// Copies all that `from` holds into `to`, and leaves `from` with a fence that says where it has gone. Leases keep their ids, so owners go on renewing
/// them; each has one full time to live from the start of a control plane on `to`. Incarnations stay what they are, and go on from the
/// greatest of them: revisions of the two stores do not compare.
///
/// Not cancel safe: both stores have a fence then, which says what to do.
///
/// # Errors
/// [`MoveError`] of either store; when `to` is not empty, or somebody else writes to it. Then `from` takes changes as before, unless the text
/// says otherwise, and `to` keeps its fence if it may have a part.
pub async fn migrate<F: Store, T: Store>(
    from: &mut F,
    to: &mut T,
    locations: Locations<'_>,
) -> Result<Moved, MoveError> {
    let first = from.load().await.map_err(MoveError::From)?;
    let mut copy = Copy::begin(to, locations.from, &first.epoch).await.map_err(MoveError::To)?;
    copy.follow(first.items).await.map_err(MoveError::To)?;
    // What has changed while all of that was written, which is most of what may have changed by now.
    let to = || locations.to.to_owned();
    let closed = clock::now();
    let copied = match from.fence(Some(Fence::Moving { to: to() }), None).await {
        Ok(true) => copy_the_rest(from, &mut copy).await,
        Ok(false) => Err(changed_meanwhile()),
        Err(why) => Err(MoveError::From(why)),
    };
    // Whoever has reopened it, or knows nothing of fences, may have changed it since it was read.
    let ended = match copied {
        Ok(moved) => match from.fence(Some(Fence::Moved { to: to() }), Some(moved.from)).await {
            Ok(true) => Ok(moved),
            Ok(false) => Err(changed_meanwhile()),
            Err(why @ StoreError::Fenced(_)) => Err(MoveError::From(why)),
            Err(why) => return Err(MoveError::From(not_ended(&why))),
        },
        Err(failed) => Err(failed),
    };
    let moved = match ended {
        Ok(moved) => moved,
        Err(failed) => {
            copy.leave().await;
            if let MoveError::From(StoreError::Fenced(_)) = failed {
                // Somebody else's, who moves it too.
                return Err(failed);
            }
            return Err(match from.fence(None, None).await {
                Ok(_) => failed,
                Err(why) => still_closed(&failed, &why),
            });
        }
    };
    // From here on the old store stays closed, whatever fails: the new one may be open.
    match copy.to.fence(None, None).await {
        Ok(_) => Ok(Moved { refused_for: clock::now() - closed, ..moved }),
        Err(why) => Err(MoveError::To(not_opened(&why))),
    }
}

/// Copies what nobody changes any more, and looks whether it is all there.
async fn copy_the_rest<F: Store, T: Store>(from: &mut F, copy: &mut Copy<'_, T>) -> Result<Moved, MoveError> {
    let last = from.load().await.map_err(MoveError::From)?;
    let (records, revision) = (last.items.len(), last.revision);
    let changed = copy.follow(last.items.clone()).await.map_err(MoveError::To)?;
    copy.compare(last.items).await.map_err(MoveError::To)?;
    Ok(Moved { records, changed, refused_for: Duration::ZERO, from: revision, to: copy.base })
}

fn changed_meanwhile() -> MoveError {
    MoveError::From(StoreError::Unavailable(
        "it was reopened or changed meanwhile, past the fence of this move, so the new store lacks what was acknowledged since and stays \
         closed: end other moves, and control planes of versions that know nothing of fences; remove what is in the new store, and begin again"
            .into(),
    ))
}

fn still_closed(failed: &MoveError, why: &StoreError) -> MoveError {
    MoveError::From(StoreError::Unavailable(format!(
        "{failed}; and it may take no changes, for a fence is there, or was to be, that could not be taken away: {why}; unless somebody else \
         moves it, do so by  gwctl store reopen"
    )))
}

fn not_ended(why: &StoreError) -> StoreError {
    StoreError::Unavailable(format!(
        "all of it was copied, and then this one did not answer: {why}; the new store is not open: have the old one take changes again by  \
         gwctl store reopen , remove what is in the new one, and begin again"
    ))
}

fn not_opened(why: &StoreError) -> StoreError {
    StoreError::Unavailable(format!(
        "all of it was copied, and then this one did not answer when it was to be opened: {why}; look first whether it takes changes: if a \
         control plane starts on it, it is open, the move has ended, and to reopen the old one would make two that take changes; if \
         none starts because it is being filled, have the old one take changes again by  gwctl store reopen , remove what is here, \
         and begin again"
    ))
}

#[cfg(test)]
mod tests;

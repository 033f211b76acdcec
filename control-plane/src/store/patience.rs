//! A store that is out of reach for a moment as the control plane starts.

use std::time::Duration;

use tokio::time::sleep;

use super::{Loaded, Store, StoreError};
use crate::clock;

/// An etcd chooses a leader in less.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(300);

/// Reads everything, if need be some time later.
///
/// # Errors
/// As [`Store::load`]: at once what trying again is of no use for, and the last one when it has taken too long.
pub(crate) async fn load_patiently<S: Store>(store: &mut S) -> Result<Loaded, StoreError> {
    let until = clock::now() + PATIENCE;
    loop {
        match store.load().await {
            Err(StoreError::Unavailable(why)) if clock::now() < until => {
                tracing::warn!(why, "the store cannot be read: trying again");
                sleep(PAUSE).await;
            }
            loaded => return loaded,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::{
        registry::{Mutation, Revision},
        store::{Commit, Fence, Memory},
    };

    /// Fails so, one time after the other, and then no more.
    struct Failing(VecDeque<StoreError>);

    impl Store for Failing {
        async fn load(&mut self) -> Result<Loaded, StoreError> {
            match self.0.pop_front() {
                Some(error) => Err(error),
                None => Memory::new().load().await,
            }
        }

        async fn commit(&mut self, _: Revision, _: &[Mutation]) -> Result<Commit, StoreError> {
            unreachable!("nothing is changed")
        }
    }

    fn away() -> StoreError {
        StoreError::Unavailable("no leader".into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_cannot_be_read_for_a_moment_does_not_end_the_start() {
        assert!(load_patiently(&mut Failing([away(), away()].into())).await.is_ok());
        let mut gone = Failing(std::iter::repeat_n(away(), 999).collect());
        assert_eq!(load_patiently(&mut gone).await, Err(away()), "not for ever");
        assert!(gone.0.len() > 900, "with a pause between");
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_told_from_what_somebody_has_to_mend() {
        let to = || "redb:a".to_owned();
        for (error, may_pass) in [
            (away(), true),
            (StoreError::Full("disk".into()), true),
            (StoreError::Fenced(Fence::Moving { to: to() }), true),
            (StoreError::Fenced(Fence::Moved { to: to() }), false),
            (StoreError::Unusable("damaged".into()), false),
        ] {
            assert_eq!(error.may_pass(), may_pass, "{error}");
            if error != away() {
                assert_eq!(load_patiently(&mut Failing([error.clone()].into())).await, Err(error));
            }
        }
    }
}

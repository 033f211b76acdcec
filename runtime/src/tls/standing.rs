//! What there is to be told of the files that TLS goes by: until when the certificates that are shown are good, and whether what is
//! in the files now could be used.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;

/// Until when each file is good: a chain as long as the first of its certificates to end.
pub(super) type Ends = BTreeMap<PathBuf, SystemTime>;

/// Of the files of one listener, or of one kind of servers.
#[derive(Debug, Default)]
pub struct Standing {
    ends: ArcSwap<Ends>,
    are_unusable: AtomicBool,
}

impl Standing {
    pub(super) fn new(ends: Ends) -> Arc<Self> {
        Arc::new(Self { ends: ArcSwap::from_pointee(ends), ..Self::default() })
    }

    /// The files were read again. What could not be used leaves what was read before in use.
    pub(super) fn was_read<T>(&self, read: &Result<(T, Ends), String>) {
        self.are_unusable.store(read.is_err(), Relaxed);
        if let Ok((_, ends)) = read {
            self.ends.store(Arc::new(ends.clone()));
        }
    }
}

/// Whatever a process uses certificates for, by what metrics call it.
#[derive(Debug, Clone, Default)]
pub struct Uses(Vec<(&'static str, Arc<Standing>)>);

impl Uses {
    /// What the metric of [`Uses::ends`] is called, and what it says.
    pub const ENDS: (&str, &str) = (
        "gateway_certificate_not_after_timestamp_seconds",
        "When a certificate that is shown ends, or the first one of its chain",
    );
    /// Likewise, of [`Uses::unusable`].
    pub const UNUSABLE: (&str, &str) = (
        "gateway_certificate_files_unusable",
        "1 while files for TLS have changed and cannot be used, so that what they held before holds",
    );

    /// One more.
    pub fn add(&mut self, of: &'static str, standing: &Arc<Standing>) {
        self.0.push((of, Arc::clone(standing)));
    }

    /// Use, file, and when what is read of it ends, in seconds of Unix time.
    pub fn ends(&self) -> Vec<([String; 2], u64)> {
        let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let of = |(of, standing): &(&str, Arc<Standing>)| {
            let ends = standing.ends.load();
            let one = |(file, at): (&PathBuf, &SystemTime)| {
                ([(*of).to_owned(), file.display().to_string()], seconds(*at))
            };
            ends.iter().map(one).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of).collect()
    }

    /// Use, and 1 while its files have changed and cannot be used.
    pub fn unusable(&self) -> Vec<([&'static str; 1], u64)> {
        let of = |(of, standing): &(&'static str, Arc<Standing>)| {
            ([*of], u64::from(standing.are_unusable.load(Relaxed)))
        };
        self.0.iter().map(of).collect()
    }
}

//! A disk that forgets what was not synced: writes are seen at once, and durable when a sync after them has returned.
//!
//! The power fails in the middle of a call that is drawn. What was written since the last sync is there in part then,
//! sector by sector, as a disk leaves it that writes in an order of its own.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use redb::StorageBackend;

/// What a disk writes as a whole or not at all.
const SECTOR: usize = 512;

/// Clones are the same disk.
#[derive(Debug, Clone)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// What a power loss leaves in any case.
    durable: Vec<u8>,
    /// What a read finds.
    seen: Vec<u8>,
    /// What makes the one into the other, in order.
    unsynced: Vec<Write>,
    /// Whether a sync does anything.
    is_honest: bool,
    /// What they fail with, done or not.
    sync_fault: Option<io::ErrorKind>,
    random: StdRng,
    /// How many power losses there were: who attached before the last one reaches nothing any more.
    losses: u32,
    is_on: bool,
    /// Calls that are carried out until the power fails.
    calls_left: u64,
}

#[derive(Debug)]
enum Write {
    Bytes(usize, Vec<u8>),
    Len(usize),
}

impl Disk {
    /// Without power yet.
    pub(super) fn new(seed: u64) -> Self {
        let state = State {
            durable: Vec::new(),
            seen: Vec::new(),
            unsynced: Vec::new(),
            is_honest: true,
            sync_fault: None,
            random: StdRng::seed_from_u64(seed),
            losses: 0,
            is_on: false,
            calls_left: 0,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Syncs say that they have done it, and do nothing from now on.
    pub(super) fn ignore_syncs(&self) {
        self.state().is_honest = false;
    }

    /// Syncs are done, and say from now on that they are not.
    pub(super) fn fail_syncs(&self, kind: io::ErrorKind) {
        self.state().sync_fault = Some(kind);
    }

    /// Gives it power, which fails in the call after so many writes and syncs.
    pub(super) fn power_on(&self, calls: u64) {
        let mut state = self.state();
        (state.is_on, state.calls_left) = (true, calls);
    }

    pub(super) fn has_power(&self) -> bool {
        self.state().is_on
    }

    /// As who opens a file does.
    pub(super) fn attach(&self) -> io::Result<Attached> {
        let state = self.state();
        let attached = Attached { disk: self.clone(), losses: state.losses };
        if state.is_on { Ok(attached) } else { Err(power_failed()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

/// A disk as long as its power lasts.
#[derive(Debug)]
pub(super) struct Attached {
    disk: Disk,
    losses: u32,
}

impl Attached {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.is_on && state.losses == self.losses { Ok(state) } else { Err(power_failed()) }
    }

    /// For a call in which the power may fail.
    fn drawn(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state()?;
        match state.calls_left.checked_sub(1) {
            Some(left) => state.calls_left = left,
            None => {
                state.lose_power();
                return Err(power_failed());
            }
        }
        Ok(state)
    }
}

impl StorageBackend for Attached {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (state, first) = (self.state()?, index(offset));
        let found = state.seen.get(first..first + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.drawn()?.write(Write::Len(index(len)));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.drawn()?;
        if state.is_honest {
            for write in std::mem::take(&mut state.unsynced) {
                write.reach(&mut state.durable);
            }
        }
        state.sync_fault.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.drawn()?;
        state.write(Write::Bytes(index(offset), data.to_vec()));
        // What goes down with the power is part of what was in its way.
        if state.calls_left == 0 {
            state.lose_power();
            return Err(power_failed());
        }
        Ok(())
    }
}

impl State {
    fn write(&mut self, write: Write) {
        write.reach(&mut self.seen);
        self.unsynced.push(write);
    }

    /// Some of what was not synced has reached the disk: all, nothing, or any part.
    fn lose_power(&mut self) {
        let share = [0.0, 0.1, 0.5, 0.9, 1.0][self.random.random_range(0..5)];
        for write in std::mem::take(&mut self.unsynced) {
            match write {
                Write::Len(_) if self.random.random_bool(share) => write.reach(&mut self.durable),
                Write::Len(_) => {}
                Write::Bytes(first, bytes) => {
                    let mut done = 0;
                    while done < bytes.len() {
                        let end = bytes.len().min(done + SECTOR - (first + done) % SECTOR);
                        if self.random.random_bool(share) {
                            Write::Bytes(first + done, bytes[done..end].to_vec()).reach(&mut self.durable);
                        }
                        done = end;
                    }
                }
            }
        }
        self.seen.clone_from(&self.durable);
        self.losses += 1;
        self.is_on = false;
    }
}

impl Write {
    fn reach(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Len(len) => bytes.resize(*len, 0),
            Self::Bytes(first, new) => {
                let end = first + new.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*first..end].copy_from_slice(new);
            }
        }
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("it is in memory")
}

fn power_failed() -> io::Error {
    io::Error::other("the power has failed")
}

//! Writes to BARs that eventfds cause.
// Table Vt28, V93.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::VfioPciDevice;
use crate::device_ops::{DeviceOps, Eventfd, IoEventfd, IoEventfdError, IoWidth, Listening, RegionIndex};

/// How many a device may have.
const LIMIT: usize = 1000;

/// What a user has set up, until the last file is closed.
#[derive(Debug, Default)]
pub(super) struct IoEventfds(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    write: Write,
    /// Which entry it is, for the event that it listens to.
    token: Arc<()>,
    /// Once the event is listened to.
    listening: Option<Listening>,
}

/// A write, which there is once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Write {
    region: RegionIndex,
    offset: u64,
    data: u64,
    width: IoWidth,
}

impl Write {
    fn bytes(&self) -> Vec<u8> {
        self.data.to_le_bytes().into_iter().take(self.width.bytes().into()).collect()
    }
}

impl IoEventfds {
    fn entry(&mut self, token: &Arc<()>) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| Arc::ptr_eq(&entry.token, token))
    }
}

impl VfioPciDevice {
    pub(super) fn change_ioeventfd(&self, request: &IoEventfd) -> Result<(), IoEventfdError> {
        let IoEventfd { region, offset, data, width, eventfd } = request;
        let write = Write { region: *region, offset: *offset, data: *data, width: *width };
        self.may_write(&write)?;
        let token = Arc::new(());
        let mut state = self.state.lock();
        let Some(session) = &mut state.session else { return Err(IoEventfdError::Missing) };
        let entries = &mut session.ioeventfds.0;
        let place = entries.iter().position(|entry| entry.write == write);
        let event = match (place, eventfd) {
            (Some(place), Eventfd::Remove) => {
                let removed = entries.remove(place);
                drop(state);
                drop(removed);
                return Ok(());
            }
            (Some(_), _) => return Err(IoEventfdError::Exists),
            (None, Eventfd::Remove) => return Err(IoEventfdError::Missing),
            (None, _) if entries.len() >= LIMIT => return Err(IoEventfdError::TooMany { limit: LIMIT }),
            (None, Eventfd::Invalid(errno)) => return Err(IoEventfdError::BadEventfd { errno: *errno }),
            (None, Eventfd::Set(event)) => event,
        };
        entries.push(Entry { write, token: token.clone(), listening: None });
        drop(state);
        let (me, heard) = (self.me.clone(), token.clone());
        let listening = event.listen(move || {
            if let Some(me) = me.upgrade() {
                me.fire(&heard);
            }
        });
        let mut state = self.state.lock();
        let entry = state.session.as_mut().and_then(|session| session.ioeventfds.entry(&token));
        // Removed meanwhile, it is dropped once no lock is held.
        let unused = match entry {
            Some(entry) => {
                entry.listening = listening;
                None
            }
            None => listening,
        };
        drop(state);
        drop(unused);
        Ok(())
    }

    // Vt28.2.
    fn may_write(&self, write: &Write) -> Result<(), IoEventfdError> {
        let Write { region, offset, width, .. } = *write;
        let bytes = width.bytes();
        let end = offset.checked_add(bytes.into());
        let bar = if region < RegionIndex::ROM { self.window(region) } else { None };
        let fits = bar.zip(end).is_some_and(|(bar, end)| end <= bar.size());
        let table = self.msix_table(region);
        let meets_table = table.zip(end).is_some_and(|(table, end)| offset < table.span.end && table.span.start < end);
        if fits && !meets_table { Ok(()) } else { Err(IoEventfdError::Range { region, offset, bytes }) }
    }

    /// The event of this entry was signalled.
    fn fire(&self, token: &Arc<()>) {
        let mut state = self.state.lock();
        let Some(session) = &mut state.session else { return };
        let inside = self.signalling.enter();
        let write = session.ioeventfds.entry(token).map(|entry| entry.write);
        drop(state);
        if let Some(write) = write {
            // With memory decoding off, the write is dropped.
            let _ = self.write(write.region, write.offset, &write.bytes());
        }
        drop(inside);
    }
}

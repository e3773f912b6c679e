//! What one `sn_next` takes: the records and the arena that were being filled, as they are. Nothing is copied: an empty queue
//! takes the place of the full one, so their memory goes round between the exchange and the host's batches.

use crate::record::{Event, Record};

/// What a queue keeps of its memory when it is emptied; a burst must not keep its peak for ever.
const KEPT_ARENA: usize = 512 * 1024;
const KEPT_RECORDS: usize = 4096;
/// Most bytes of body in one record. The host makes an object of each: larger ones come from fresh pages, page fault by page
/// fault, where smaller ones find memory that was used just before.
const PIECE: usize = 64 * 1024;

/// Where the contents of a batch lie. Read by the host straight from memory, so that no call returns more than a status; it is
/// always at the address that `sn_batch_new` has told, and good until the next `sn_next` on this batch.
#[repr(C)]
#[derive(Debug)]
pub struct BatchHeader {
    /// Address of the records; 0 when there are none. 64 bits everywhere, so that the header has one layout.
    pub records: u64,
    /// Address of their payloads; 0 when there are none.
    pub arena: u64,
    /// How many records.
    pub count: u32,
    /// How many bytes of payload.
    pub length: u32,
    /// 1 when the watched descriptor became readable.
    pub watched: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

/// Events in order, with their payloads.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) records: Vec<Record>,
    pub(crate) arena: Vec<u8>,
}

/// One host thread's hold on events.
#[derive(Debug, Default)]
pub struct Batch {
    queue: Queue,
    /// Whether the watched descriptor became readable.
    pub(crate) watched: bool,
}

impl Queue {
    pub(crate) fn push(&mut self, mut record: Record, payload: &[u8]) {
        record.offset = self.arena.len() as u32;
        record.length = payload.len() as u32;
        self.arena.extend_from_slice(payload);
        self.records.push(record);
    }

    /// Adds bytes of a stream, which have no boundaries: behind those that wait already, and no more than [`PIECE`] in one
    /// record. `flags` are the last one's.
    pub(crate) fn pour(&mut self, record: Record, mut payload: &[u8]) {
        if let Some(last) = self.records.last_mut()
            && last.kind == record.kind
            && last.stream == record.stream
            && last.flags == 0
        {
            let here = payload.split_off(..payload.len().min(PIECE - last.length as usize)).unwrap_or_default();
            last.length += here.len() as u32;
            self.arena.extend_from_slice(here);
            if payload.is_empty() {
                last.flags = record.flags;
                return;
            }
        }
        while payload.len() > PIECE {
            let piece = payload.split_off(..PIECE).unwrap_or_default();
            self.push(Record { flags: 0, ..record }, piece);
        }
        self.push(record, payload);
    }

    fn clear(&mut self) {
        self.records.clear();
        self.arena.clear();
        self.records.shrink_to(KEPT_RECORDS);
        self.arena.shrink_to(KEPT_ARENA);
    }
}

impl Batch {
    /// Empties the batch.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.watched = false;
    }

    /// Takes what was filled; what was in the batch before is over.
    pub(crate) fn swap(&mut self, filled: &mut Queue) {
        self.queue.clear();
        std::mem::swap(&mut self.queue, filled);
    }

    /// The records taken last.
    pub fn records(&self) -> &[Record] {
        &self.queue.records
    }

    /// The payload of one record of this batch, body of OPEN included.
    pub fn payload(&self, record: &Record) -> &[u8] {
        let tail = if record.kind == Event::Open as u8 { record.aux } else { 0 };
        &self.queue.arena[record.offset as usize..(record.offset + record.length + tail) as usize]
    }

    /// Where everything lies until the batch is touched again.
    pub fn header(&self) -> BatchHeader {
        let Queue { records, arena } = &self.queue;
        BatchHeader {
            records: if records.is_empty() { 0 } else { records.as_ptr() as u64 },
            arena: if arena.is_empty() { 0 } else { arena.as_ptr() as u64 },
            count: records.len() as u32,
            length: arena.len() as u32,
            watched: u32::from(self.watched),
            reserved: 0,
        }
    }
}

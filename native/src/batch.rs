//! The memory one `sn_next` fills: records and one arena, at addresses that stay the same for the batch's life.

use crate::record::Record;

/// Records one batch holds at most; a fuller queue is taken in several turns.
pub const BATCH_RECORDS: usize = 512;
/// Bytes of payload one batch holds at most.
pub const BATCH_ARENA: usize = 512 * 1024;

/// How much of the batch is filled. Read by the host straight from memory, so that no call returns more than a status.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchHeader {
    /// Records filled.
    pub records: u32,
    /// Bytes of arena filled.
    pub arena: u32,
    /// 1 when the watched descriptor became readable.
    pub watched: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

/// Preallocated room for events. Fixed size, so the host maps it once.
#[derive(Debug)]
pub struct Batch {
    pub(crate) header: Box<BatchHeader>,
    pub(crate) records: Box<[Record]>,
    pub(crate) arena: Box<[u8]>,
}

impl Default for Batch {
    fn default() -> Self {
        Batch {
            header: Box::default(),
            records: vec![Record::default(); BATCH_RECORDS].into_boxed_slice(),
            arena: vec![0; BATCH_ARENA].into_boxed_slice(),
        }
    }
}

impl Batch {
    /// The records taken last.
    pub fn records(&self) -> &[Record] {
        &self.records[..self.header.records as usize]
    }

    /// The payload of one record of this batch, body of OPEN included.
    pub fn payload(&self, record: &Record) -> &[u8] {
        let tail = if record.kind == crate::record::Event::Open as u8 { record.aux } else { 0 };
        &self.arena[record.offset as usize..(record.offset + record.length + tail) as usize]
    }

    /// Where header, records and arena lie.
    pub fn view(&mut self) -> (*const BatchHeader, *const Record, *const u8) {
        (&*self.header, self.records.as_ptr(), self.arena.as_ptr())
    }
}

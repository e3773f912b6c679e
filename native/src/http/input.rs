//! Bytes read and not yet understood. Taking from the front moves a cursor, not the bytes.

/// What an empty buffer keeps.
const KEPT: usize = 4096;

/// The read buffer of one HTTP/1.1 connection.
#[derive(Debug, Default)]
pub struct Input {
    data: Vec<u8>,
    start: usize,
}

impl Input {
    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        &self.data[self.start..]
    }

    /// What is there, for whoever changes it where it lies.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..]
    }

    /// How much is there.
    pub fn len(&self) -> usize {
        self.data.len() - self.start
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds at the end.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.data.len() + bytes.len() > self.data.capacity() {
            self.data.drain(..self.start);
            self.start = 0;
        }
        self.data.extend_from_slice(bytes);
    }

    /// Takes `count` bytes from the front.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.data.len());
        if self.start == self.data.len() {
            self.clear();
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.data.clear();
        self.data.shrink_to(KEPT);
        self.start = 0;
    }
}

impl From<Vec<u8>> for Input {
    fn from(data: Vec<u8>) -> Self {
        Input { data, start: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let mut input = Input::from(b"abc".to_vec());
        input.consume(2);
        input.extend(&[b'd'; 10_000]);
        assert_eq!((input.len(), &input.bytes()[..2]), (10_001, &b"cd"[..]));
        input.consume(10_001);
        assert!(input.is_empty());
    }
}

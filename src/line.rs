//! Lines out of bytes, however the bytes were cut on their way.
//!
//! Ollama, the link and the journal of a turn send one JSON object a line. A
//! chunk may hold several lines, half a line, or half a character: so bytes are
//! kept until a whole line is there, and a line is handed on exactly as it came.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

/// Longest line, in bytes; Ollama's own client takes as much.
pub const LINE_MAX: usize = 8 << 20;

/// A line that goes on beyond the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a line is longer than {LINE_MAX} bytes")]
pub struct LineTooLong;

/// Collects chunks and gives lines, each with its line feed.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: BytesMut,
    // Where to go on looking for a line feed, so that a long line is searched once.
    searched: usize,
}

impl Lines {
    /// Takes the next chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole line with its line feed; lines of blanks are left out.
    ///
    /// # Errors
    /// [`LineTooLong`] when more than [`LINE_MAX`] bytes came without a line feed.
    pub fn take(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        while let Some(found) = self.buffer[self.searched..].iter().position(|&b| b == b'\n') {
            let length = self.searched + found + 1;
            self.searched = 0;
            if length > LINE_MAX {
                return Err(LineTooLong);
            }
            let line = self.buffer.split_to(length).freeze();
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
        self.searched = self.buffer.len();
        if self.buffer.len() > LINE_MAX { Err(LineTooLong) } else { Ok(None) }
    }

    /// What came after the last line feed, once no more will come.
    pub fn rest(&mut self) -> Option<Bytes> {
        self.searched = 0;
        let rest = self.buffer.split().freeze();
        (!rest.trim_ascii().is_empty()).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(chunks: &[&[u8]]) -> Vec<Bytes> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for chunk in chunks {
            lines.push(chunk);
            while let Some(line) = lines.take().unwrap() {
                found.push(line);
            }
        }
        found.extend(lines.rest());
        found
    }

    proptest::proptest! {
        /// Wherever the bytes are cut, the same lines come out.
        #[test]
        fn cuts_do_not_change_lines(cuts in proptest::collection::vec(0usize..40, 0..8)) {
            let text = "{\"a\":\"blåbær ☕\"}\n\n{\"b\":\"日本\"}\nrest".as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            proptest::prop_assert_eq!(lines_of(&chunks), lines_of(&[text]));
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; LINE_MAX]);
        assert_eq!(lines.take(), Ok(None));
        lines.push(b"x");
        assert_eq!(lines.take(), Err(LineTooLong));
    }
}

//! From byte offsets to lines and columns, in constant time for each question.

use std::ops::Range;

use super::Span;

/// Bytes between two points whose number of preceding characters is known.
const CHECKPOINT_BYTES: usize = 1024;

/// A text whose lines are known.
#[derive(Clone, Debug)]
pub(crate) struct Lines<'t> {
    text: &'t str,
    /// The offset at which each line starts.
    starts: Vec<usize>,
    /// The characters that start before each multiple of [`CHECKPOINT_BYTES`].
    checkpoints: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        let mut checkpoints = vec![0];
        let mut characters = 0;
        for block in text.as_bytes().chunks(CHECKPOINT_BYTES) {
            characters += character_starts(block);
            checkpoints.push(characters);
        }
        Self { text, starts, checkpoints }
    }

    /// The number of the line an offset is on, from 0.
    pub(crate) fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset) - 1
    }

    /// The bytes of a line, counted from 0, without its end.
    pub(crate) fn range(&self, line: usize) -> Range<usize> {
        let start = self.starts.get(line).copied().unwrap_or(self.text.len());
        let end = self.starts.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let content = self.text[start..end].trim_end_matches('\r').len();
        start..start + content
    }

    /// Where a range of bytes is, for a person.
    pub(crate) fn span(&self, range: Range<usize>) -> Span {
        let offset = range.start.min(self.text.len());
        let end = range.end.clamp(offset, self.text.len());
        let line = self.line(offset);
        let start = self.starts[line];
        // Most lines are short: counting them beats counting from the checkpoints.
        let before = if offset - start <= CHECKPOINT_BYTES {
            character_starts(&self.text.as_bytes()[start..offset])
        } else {
            self.characters(offset) - self.characters(start)
        };
        Span { offset, length: end - offset, line: line + 1, column: before + 1 }
    }

    /// The characters that start before an offset.
    fn characters(&self, offset: usize) -> usize {
        let block = offset / CHECKPOINT_BYTES;
        let rest = &self.text.as_bytes()[block * CHECKPOINT_BYTES..offset];
        self.checkpoints[block] + character_starts(rest)
    }
}

fn character_starts(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0b1100_0000 != 0b1000_0000).count()
}

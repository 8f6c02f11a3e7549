//! What one group may use.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::unit::{ByteSize, Period};

/// What one group may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Processor time of the whole sandbox.
    pub cpus: MilliCpus,
    /// Memory of the whole sandbox.
    pub memory: ByteSize,
    /// Processes and threads of the whole sandbox.
    pub pids: u32,
    /// Hard stop of one turn.
    pub turn: Period,
    /// An on-demand agent with nothing to do stops after this.
    pub idle: Period,
    /// What is kept of one tool call's output.
    pub output: ByteSize,
    /// What the group's folders may hold, its home among them; over it the turn stops.
    pub disk: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpus: MilliCpus(2000),
            memory: ByteSize::bytes(1 << 30),
            pids: 256,
            turn: Period::seconds(30 * 60),
            idle: Period::seconds(30 * 60),
            output: ByteSize::bytes(10 << 20),
            disk: ByteSize::bytes(2 << 30),
        }
    }
}

/// Processor time, in thousandths of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MilliCpus(pub u32);

impl fmt::Display for MilliCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(f, "{}", self.0 / 1000)
        } else {
            let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
            f.write_str(text.trim_end_matches('0'))
        }
    }
}

//! An agent's log on its way into ours.
//!
//! Lines are cut and stripped of what commands a terminal, and a flood is dropped.
//! What is shown of ours, and where, is `logging`'s business.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::Instant;

use crate::name::GroupName;

/// Longest line of an agent's log, in bytes.
const LOG_LINE_MAX: usize = 4 << 10;
/// Bytes of an agent's log that are taken in one second; the rest is dropped.
const LOG_RATE_MAX: usize = 64 << 10;

/// Passes an agent's log on, line by line, as much of it as is bearable.
pub(super) async fn keep_log(mut log: Box<dyn AsyncRead + Send + Unpin>, group: GroupName) {
    let mut buffer = vec![0; LOG_LINE_MAX];
    let mut line = Vec::new();
    let (mut second, mut taken, mut dropped) = (Instant::now(), 0, 0_usize);
    while let Ok(count @ 1..) = log.read(&mut buffer).await {
        if second.elapsed() >= Duration::from_secs(1) {
            log_dropped(&group, std::mem::take(&mut dropped));
            (second, taken) = (Instant::now(), 0);
        }
        taken += count;
        if taken > LOG_RATE_MAX {
            dropped += count;
            continue;
        }
        for byte in &buffer[..count] {
            if *byte == b'\n' || line.len() >= LOG_LINE_MAX {
                log_line(&group, &line);
                line.clear();
            }
            if *byte != b'\n' {
                line.push(*byte);
            }
        }
    }
    log_line(&group, &line);
    log_dropped(&group, dropped);
}

fn log_dropped(group: &GroupName, bytes: usize) {
    if bytes > 0 {
        tracing::warn!(target: "babybot::agent", %group, bytes, "the agent logs too much; lines are dropped");
    }
}

fn log_line(group: &GroupName, line: &[u8]) {
    let text: String =
        String::from_utf8_lossy(line).chars().filter(|character| !character.is_control()).collect();
    if !text.is_empty() {
        tracing::info!(target: "babybot::agent", %group, "{text}");
    }
}

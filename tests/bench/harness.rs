//! Taking times and printing them beside the floor of the same run.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Enough for figures.
    Full,
    /// Enough to see that everything runs.
    Quick,
}

impl Effort {
    /// `full` samples, or a few.
    pub(crate) fn samples(self, full: usize) -> usize {
        match self {
            Self::Full => full,
            Self::Quick => full.div_ceil(20),
        }
    }

    /// Numbers of groups.
    pub(crate) fn sizes(self) -> &'static [usize] {
        match self {
            Self::Full => &[1, 10, 100, 1_000],
            Self::Quick => &[1, 100],
        }
    }
}

/// The times of one thing, shortest first.
#[derive(Clone, Debug)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// At least one time.
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "nothing was measured");
        times.sort_unstable();
        Self(times)
    }

    /// Does it a few times unmeasured, then `count` times.
    pub(crate) fn of<T>(count: usize, mut work: impl FnMut() -> T) -> Self {
        for _ in 0..count.div_ceil(10) {
            std::hint::black_box(work());
        }
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = Instant::now();
            let made = work();
            times.push(begun.elapsed());
            // Whatever was made is dropped after the clock was read.
            drop(std::hint::black_box(made));
        }
        Self::new(times)
    }

    pub(crate) fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }

    /// The time least disturbed by whatever else the machine does.
    pub(crate) fn least(&self) -> Duration {
        self.0[0]
    }

    pub(crate) fn p99(&self) -> Duration {
        self.0[(self.0.len() * 99).div_ceil(100) - 1]
    }
}

/// What was measured, as a table.
#[derive(Debug, Default)]
pub(crate) struct Table {
    lines: String,
}

impl Table {
    pub(crate) fn heading(&mut self, text: &str) {
        let _ = writeln!(self.lines, "\n### {text}\n");
        let _ = writeln!(
            self.lines,
            "| what | least | median | p99 | floor | × floor | target | met |"
        );
        let _ = writeln!(self.lines, "|---|---|---|---|---|---|---|---|");
    }

    /// A line; the floor is a median, and `target` is for the median.
    pub(crate) fn line(
        &mut self,
        what: &str,
        times: &Times,
        floor: Option<&Times>,
        target: Option<Duration>,
    ) {
        let floor = floor.map(Times::median);
        let ratio =
            floor.map(|floor| format!("{:.1}", times.median().as_secs_f64() / floor.as_secs_f64()));
        let met = target.map(|target| if times.median() <= target { "yes" } else { "NO" });
        let _ = writeln!(
            self.lines,
            "| {what} | {} | {} | {} | {} | {} | {} | {} |",
            shown(times.least()),
            shown(times.median()),
            shown(times.p99()),
            floor.map_or_else(String::new, shown),
            ratio.unwrap_or_default(),
            target.map_or_else(String::new, |target| format!("≤ {}", shown(target))),
            met.unwrap_or_default(),
        );
    }

    pub(crate) fn note(&mut self, text: &str) {
        let _ = writeln!(self.lines, "\n{text}");
    }

    pub(crate) fn text(&self) -> &str {
        &self.lines
    }
}

/// A time with three digits or so.
pub(crate) fn shown(time: Duration) -> String {
    let microseconds = time.as_secs_f64() * 1e6;
    match microseconds {
        ..10.0 => format!("{microseconds:.2} µs"),
        ..1_000.0 => format!("{microseconds:.0} µs"),
        ..10_000.0 => format!("{:.2} ms", microseconds / 1e3),
        ..1_000_000.0 => format!("{:.1} ms", microseconds / 1e3),
        _ => format!("{:.2} s", microseconds / 1e6),
    }
}

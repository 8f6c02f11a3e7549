//! How many requests a second a webhook answers.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Requests with the token: so many a second, and so many at once after a rest.
const REQUESTS: (f64, f64) = (200.0, 400.0);
/// Requests without it.
const STRANGERS: (f64, f64) = (10.0, 20.0);

/// What is left of each allowance.
#[derive(Debug)]
pub(super) struct Rates {
    requests: Bucket,
    strangers: Bucket,
}

impl Default for Rates {
    fn default() -> Self {
        Self { requests: Bucket::new(REQUESTS), strangers: Bucket::new(STRANGERS) }
    }
}

impl Rates {
    /// Whether one more request with the token is answered now.
    pub(super) fn admits_request(&self) -> bool {
        self.requests.takes(Instant::now())
    }

    /// Whether one more request without it is told so. Nobody with the token notices.
    pub(super) fn admits_stranger(&self) -> bool {
        self.strangers.takes(Instant::now())
    }
}

#[derive(Debug)]
struct Bucket {
    per_second: f64,
    most: f64,
    left: Mutex<Option<(f64, Instant)>>,
}

impl Bucket {
    fn new((per_second, most): (f64, f64)) -> Self {
        Self { per_second, most, left: Mutex::new(None) }
    }

    fn takes(&self, now: Instant) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let has = match *left {
            Some((has, at)) => {
                let since = now.saturating_duration_since(at).as_secs_f64();
                (has + since * self.per_second).min(self.most)
            }
            None => self.most,
        };
        let takes = has >= 1.0;
        *left = Some((if takes { has - 1.0 } else { has }, now));
        takes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn so_many_at_once_and_then_so_many_a_second() {
        let bucket = Bucket::new((10.0, 20.0));
        let start = Instant::now();
        let taken = |after: u64| {
            let now = start + Duration::from_millis(after);
            std::iter::from_fn(|| bucket.takes(now).then_some(())).count()
        };
        assert_eq!([taken(0), taken(0), taken(1000), taken(1050), taken(1100)], [20, 0, 10, 0, 1]);
        assert_eq!(taken(1_000_000), 20);
    }
}

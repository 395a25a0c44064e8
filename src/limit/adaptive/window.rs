use tokio::time::Duration;

/// How many samples are kept: enough for a percentile to be off by less than 2 % of the ranks.
const KEPT: usize = 1024;

/// Latencies, of which a percentile is wanted: a uniform choice of those pushed, in bounded memory.
#[derive(Debug, Default)]
pub(super) struct Window {
    kept: Vec<Duration>,
    pushed: usize,
}

impl Window {
    pub(super) fn push(&mut self, latency: Duration, rng: &mut fastrand::Rng) {
        self.pushed += 1;
        if self.kept.len() < KEPT {
            self.kept.push(latency);
        } else if let Some(kept) = self.kept.get_mut(rng.usize(..self.pushed)) {
            *kept = latency;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.pushed
    }

    /// The latency below which this share of the samples is, from 0 to 1. Empties the window.
    pub(super) fn take_percentile(&mut self, share: f64) -> Option<Duration> {
        let last = self.kept.len().checked_sub(1)?;
        // Out of range saturates, and so does NaN, to 0.
        let rank = ((last as f64 * share).round() as usize).min(last);
        let (_, latency, _) = self.kept.select_nth_unstable(rank);
        let latency = *latency;
        self.clear();
        Some(latency)
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.pushed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_of_all_that_was_pushed() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut window = Window::default();
        assert_eq!(window.take_percentile(0.5), None);
        for millis in [5, 1, 4, 2, 3] {
            window.push(Duration::from_millis(millis), &mut rng);
        }
        assert_eq!(window.take_percentile(0.5), Some(Duration::from_millis(3)));
        assert_eq!(window.len(), 0);
        for millis in 0..100_000 {
            window.push(Duration::from_millis(millis), &mut rng);
        }
        assert_eq!((window.kept.len(), window.len()), (KEPT, 100_000));
        let median = window.take_percentile(0.5).unwrap().as_millis();
        assert!((45_000..55_000).contains(&median), "{median}");
    }
}

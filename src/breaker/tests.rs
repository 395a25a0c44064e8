//! The machine's timelines, and the layer poll by poll, in paused time.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::{classify::Class, config::CircuitBreaker};

mod layer;

const QUICK: Duration = Duration::from_millis(5);

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(7)
}

/// A machine with a clock.
struct Line {
    machine: Machine,
    now: Instant,
    rng: fastrand::Rng,
}

impl Line {
    fn new(config: CircuitBreaker) -> Self {
        let now = Instant::now();
        Self { machine: Machine::new(config, now), now, rng: rng() }
    }

    fn admit(&mut self) -> Result<Ticket, Refused> {
        self.machine.admit(self.now, &mut self.rng)
    }

    fn settle(&mut self, ticket: &Ticket, class: Class) {
        self.machine.settle(ticket, class, QUICK, self.now, &mut self.rng);
    }

    fn one(&mut self, class: Class) {
        let ticket = self.admit().expect("let through");
        self.settle(&ticket, class);
    }

    fn slow(&mut self) {
        let ticket = self.admit().expect("let through");
        self.machine.settle(&ticket, Class::Success, Duration::from_secs(3), self.now, &mut self.rng);
    }

    fn wait(&mut self, duration: Duration) {
        self.now += duration;
    }

    /// Waits until a request may probe, and returns for how long.
    fn wait_out(&mut self) -> Duration {
        let retry_after = self.admit().expect_err("still open").retry_after;
        self.wait(retry_after);
        retry_after
    }

    fn state(&self) -> State {
        self.machine.state()
    }
}

fn only_in_a_row(n: u32) -> CircuitBreaker {
    CircuitBreaker { consecutive_failures: n, failure_rate: 0, ..CircuitBreaker::default() }
}

#[test]
fn seven_errors_in_a_row_open_it_and_a_success_in_between_does_not() {
    let mut line = Line::new(only_in_a_row(7));
    for _ in 0..6 {
        line.one(Class::ServerError);
    }
    line.one(Class::Success);
    for _ in 0..6 {
        line.one(Class::GatewayError);
    }
    assert_eq!(line.state(), State::Closed);
    line.one(Class::ServerError);
    assert_eq!(line.state(), State::Open);
}

#[test]
fn throttling_counts_toward_the_rate_only_and_what_says_nothing_not_at_all() {
    let mut line = Line::new(only_in_a_row(2));
    for _ in 0..50 {
        line.one(Class::Throttled);
        line.one(Class::Ignored);
    }
    assert_eq!(line.state(), State::Closed);
    line.one(Class::ServerError);
    line.one(Class::Throttled);
    line.one(Class::Ignored);
    line.one(Class::ServerError);
    assert_eq!(line.state(), State::Open, "throttling ends no row either");

    let mut line = Line::new(CircuitBreaker { consecutive_failures: 0, ..CircuitBreaker::default() });
    for _ in 0..100 {
        line.one(Class::Ignored);
    }
    for _ in 0..19 {
        line.one(Class::Throttled);
    }
    assert_eq!(line.state(), State::Closed, "not enough requests for a rate");
    line.one(Class::Throttled);
    assert_eq!(line.state(), State::Open);
}

#[test]
fn the_rate_is_that_of_the_window_and_not_of_all_time() {
    let mut line = Line::new(CircuitBreaker { consecutive_failures: 0, ..CircuitBreaker::default() });
    for _ in 0..10_000 {
        line.one(Class::Success);
    }
    line.wait(Duration::from_secs(11));
    for n in 0..20 {
        assert_eq!(line.state(), State::Closed, "after {n}");
        line.one(if n % 2 == 0 { Class::Success } else { Class::ServerError });
    }
    assert_eq!(line.state(), State::Open);
}

#[test]
fn slow_calls_open_it_and_a_slow_probe_fails() {
    let config = CircuitBreaker { slow_call: Some(Duration::from_secs(2)), ..CircuitBreaker::default() };
    let mut line = Line::new(config);
    for _ in 0..10 {
        line.one(Class::Success);
        line.slow();
    }
    assert_eq!(line.state(), State::Open);
    line.wait_out();
    line.slow();
    assert_eq!(line.state(), State::Open);
    line.wait_out();
    line.one(Class::Success);
    assert_eq!(line.state(), State::Closed);
}

#[test]
fn it_is_open_for_longer_each_time_a_probe_fails_and_begins_anew_when_it_was_closed() {
    let mut line = Line::new(only_in_a_row(1));
    line.one(Class::ServerError);
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let least = Duration::from_secs(seconds);
        let open = line.wait_out();
        assert!(open >= least && open <= least.mul_f64(1.5), "{open:?} for {least:?}");
        line.one(if seconds % 4 == 0 { Class::Throttled } else { Class::ServerError });
        assert_eq!(line.state(), State::Open);
    }
    line.wait_out();
    line.one(Class::Success);
    line.one(Class::ServerError);
    assert!(line.wait_out() <= Duration::from_millis(1_500));
}

#[test]
fn a_probe_that_says_nothing_is_given_back_to_the_next() {
    let mut line = Line::new(only_in_a_row(1));
    line.one(Class::ServerError);
    line.wait_out();
    for _ in 0..5 {
        let probe = line.admit().unwrap();
        assert_eq!(line.state(), State::HalfOpen);
        assert!(line.admit().is_err());
        line.settle(&probe, Class::Ignored);
    }
    line.one(Class::Success);
    assert_eq!(line.state(), State::Closed);
}

#[test]
fn a_probe_without_end_closes_it_with_a_good_head_and_opens_it_without() {
    for good_head in [true, false] {
        let mut line = Line::new(only_in_a_row(1));
        line.one(Class::ServerError);
        line.wait_out();
        let endless = line.admit().unwrap();
        if good_head {
            line.machine.reached(&endless);
        }
        line.wait(Duration::from_millis(9_999));
        assert!(line.admit().is_err());
        line.wait(Duration::from_millis(1));
        assert_eq!(line.admit().is_ok(), good_head);
        assert_eq!(line.state(), if good_head { State::Closed } else { State::Open });
        // A failure in the end it says of the past.
        line.settle(&endless, Class::ServerError);
        assert_eq!(line.state(), if good_head { State::Closed } else { State::Open });
    }
}

#[test]
fn whoever_takes_longer_than_a_probe_may_is_found_back_by_the_answer_that_comes_late() {
    let mut line = Line::new(only_in_a_row(1));
    line.one(Class::ServerError);
    line.wait_out();
    let late = line.admit().unwrap();
    line.wait(Duration::from_secs(11));
    assert!(line.admit().is_err(), "overdue, and open again");
    line.settle(&late, Class::Ignored);
    assert_eq!(line.state(), State::Open, "nothing is known");
    line.settle(&late, Class::Success);
    assert_eq!(line.state(), State::Closed);
    assert!(line.admit().is_ok());

    // Not where another probe has failed since.
    line.one(Class::ServerError);
    line.wait_out();
    let late = line.admit().unwrap();
    line.wait(Duration::from_secs(60));
    line.one(Class::ServerError);
    assert_eq!(line.state(), State::Open);
    line.settle(&late, Class::Success);
    assert_eq!(line.state(), State::Open);

    // Nor where it is closed already.
    line.wait_out();
    let late = line.admit().unwrap();
    line.wait(Duration::from_secs(60));
    line.one(Class::Success);
    assert_eq!(line.state(), State::Closed);
    let early = line.admit().unwrap();
    line.settle(&late, Class::Success);
    line.settle(&early, Class::ServerError);
    assert_eq!(line.state(), State::Open, "the early one still counts");
}

#[test]
fn what_began_before_it_opened_says_nothing_of_after() {
    let mut line = Line::new(only_in_a_row(1));
    let early: Vec<_> = (0..4).map(|_| line.admit().unwrap()).collect();
    line.settle(&early[0], Class::ServerError);
    line.settle(&early[1], Class::Success);
    assert_eq!(line.state(), State::Open);
    line.wait_out();
    let probe = line.admit().unwrap();
    line.settle(&early[2], Class::Success);
    assert_eq!(line.state(), State::HalfOpen);
    line.settle(&probe, Class::Success);
    line.settle(&early[3], Class::ServerError);
    assert_eq!(line.state(), State::Closed);
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Admit,
    Settle(usize, Class, bool),
    Reach(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let class = prop_oneof![
        Just(Class::Success),
        Just(Class::Throttled),
        Just(Class::ServerError),
        Just(Class::GatewayError),
        Just(Class::Ignored)
    ];
    let step = prop_oneof![
        2 => (0u64..20_000).prop_map(Step::Wait),
        4 => Just(Step::Admit),
        4 => (any::<usize>(), class, any::<bool>()).prop_map(|(which, class, slow)| Step::Settle(which, class, slow)),
        1 => any::<usize>().prop_map(Step::Reach),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #[test]
    fn one_probe_at_a_time_and_never_stuck(steps in steps(), seed: u64) {
        let config = CircuitBreaker {
            consecutive_failures: 3, min_requests: 5, slow_call: Some(Duration::from_secs(1)), ..CircuitBreaker::default()
        };
        let timeout = config.probe_timeout;
        let mut line = Line::new(config);
        line.rng = fastrand::Rng::with_seed(seed);
        let mut open: Vec<(Ticket, Instant)> = Vec::new();
        let mut probe: Option<(u64, Instant)> = None;
        for step in steps {
            match step {
                Step::Wait(millis) => line.wait(Duration::from_millis(millis)),
                Step::Admit => {
                    let before = line.state();
                    let Ok(ticket) = line.admit() else { continue };
                    if line.state() == State::HalfOpen {
                        if let Some((_, since)) = probe {
                            prop_assert!(line.now >= since + timeout, "two probes at once ({before:?})");
                        }
                        probe = Some((ticket.number(), line.now));
                    }
                    open.push((ticket, line.now));
                }
                Step::Settle(which, class, slow) if !open.is_empty() => {
                    let (ticket, _) = open.swap_remove(which % open.len());
                    probe = probe.filter(|probe| probe.0 != ticket.number());
                    let elapsed = if slow { Duration::from_secs(2) } else { QUICK };
                    line.machine.settle(&ticket, class, elapsed, line.now, &mut line.rng);
                }
                Step::Reach(which) if !open.is_empty() => {
                    let ticket = &open[which % open.len()].0;
                    line.machine.reached(ticket);
                }
                Step::Settle(..) | Step::Reach(_) => {}
            }
            if line.state() != State::HalfOpen {
                probe = None;
            }
        }
        // Nothing is ever settled again; still, after the probe's time and the longest opening a request passes.
        line.wait(timeout + Duration::from_secs(90));
        prop_assert!(line.admit().is_ok(), "stuck: {:?}", line.machine);
    }
}

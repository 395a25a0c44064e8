//! Timelines of the detector, in virtual time.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::{classify::Class, config::OutlierDetection};

/// A detector with hosts and a clock.
struct Line {
    config: OutlierDetection,
    alarm: Alarm,
    detector: Detector,
    hosts: Vec<Host>,
    /// The first so many take part.
    serving: usize,
    now: Instant,
    rng: fastrand::Rng,
}

impl Line {
    fn new(hosts: usize, config: OutlierDetection) -> Self {
        let now = Instant::now();
        Self {
            alarm: Alarm::new(&config),
            detector: Detector::new(config.clone(), now),
            config,
            hosts: (0..hosts).map(|_| Host::default()).collect(),
            serving: hosts,
            now,
            rng: fastrand::Rng::with_seed(3),
        }
    }

    fn run(&mut self) -> Vec<Event> {
        let hosts: Vec<_> = self.hosts[..self.serving].iter().enumerate().map(|(n, host)| (address(n), host)).collect();
        self.detector.run(&hosts, self.now, &mut self.rng)
    }

    /// Waits, running whenever the detector wants to.
    fn wait(&mut self, seconds: u64) -> Vec<Event> {
        let end = self.now + Duration::from_secs(seconds);
        let mut events = self.run();
        let mut runs = 0;
        while self.detector.wake_at() <= end {
            assert!(self.detector.wake_at() > self.now || runs < 1_000, "it spins");
            runs += 1;
            self.now = self.now.max(self.detector.wake_at());
            events.extend(self.run());
        }
        self.now = end;
        events
    }

    fn record(&self, host: usize, class: Class, times: usize) {
        for _ in 0..times {
            self.hosts[host].record(class, &self.alarm);
        }
    }

    fn gates(&self) -> Vec<Gate> {
        self.hosts[..self.serving].iter().map(Host::gate).collect()
    }

    fn out(&self) -> BTreeSet<usize> {
        (0..self.serving).filter(|&n| self.hosts[n].gate() != Gate::In).collect()
    }

    fn probe(&self, host: usize, class: Class) {
        let probe = self.hosts[host].try_probe().expect("due");
        self.hosts[host].probed(probe, class, Some(&self.alarm));
    }
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n as u8], 80))
}

/// Envoy's numbers, without chance.
fn exact() -> OutlierDetection {
    OutlierDetection { ejection_jitter: Duration::ZERO, ..OutlierDetection::default() }
}

fn many(percent: u8) -> OutlierDetection {
    OutlierDetection { max_ejection_percent: percent, ..exact() }
}

fn reasons(events: &[Event]) -> Vec<Reason> {
    let reason = |event: &Event| if let Event::Ejected { reason, .. } = event { Some(*reason) } else { None };
    events.iter().filter_map(reason).collect()
}

#[test]
fn five_errors_in_a_row_eject_at_once_and_throttling_is_none() {
    let mut line = Line::new(3, exact());
    line.record(0, Class::ServerError, 4);
    line.record(0, Class::Throttled, 30);
    line.record(0, Class::Ignored, 30);
    line.record(1, Class::ServerError, 4);
    line.record(1, Class::Success, 1);
    line.record(1, Class::GatewayError, 4);
    assert!(line.run().is_empty());
    line.record(0, Class::GatewayError, 1);
    assert_eq!(reasons(&line.run()), [Reason::Consecutive5xx]);
    assert_eq!(line.gates(), [Gate::Out, Gate::In, Gate::In]);
}

#[test]
fn gateway_errors_in_a_row_eject_where_that_is_asked_for() {
    let mut line = Line::new(2, OutlierDetection { consecutive_5xx: 0, consecutive_gateway_errors: 3, ..exact() });
    line.record(0, Class::ServerError, 50);
    line.record(0, Class::GatewayError, 2);
    line.record(0, Class::ServerError, 1);
    line.record(0, Class::GatewayError, 2);
    assert!(line.run().is_empty());
    line.record(0, Class::GatewayError, 1);
    assert_eq!(reasons(&line.run()), [Reason::ConsecutiveGatewayErrors]);
}

#[test]
fn an_endpoint_that_is_slow_too_often_is_ejected() {
    let second = Duration::from_secs(1);
    for (slow_call, slow, out) in [(Some(second), 25, 1), (Some(second), 24, 0), (None, 50, 0)] {
        let mut line = Line::new(5, OutlierDetection { slow_call, ..exact() });
        for host in &line.hosts {
            (0..50).for_each(|_| host.record_timed(Class::Success, second / 2, &line.alarm));
            (0..50).for_each(|_| host.record_timed(Class::Ignored, second, &line.alarm));
        }
        line.wait(10);
        for (n, host) in line.hosts.iter().enumerate() {
            let slow = if n == 0 { slow } else { 0 };
            (0..50).for_each(|done| host.record_timed(Class::Success, second * u32::from(done < slow), &line.alarm));
        }
        assert_eq!(reasons(&line.wait(10)), vec![Reason::SlowCalls; out], "{slow_call:?} {slow}");
    }
}

#[test]
fn an_ejection_ends_with_one_probe() {
    let mut line = Line::new(3, exact());
    line.record(0, Class::ServerError, 5);
    line.run();
    line.wait(29);
    assert_eq!(line.gates()[0], Gate::Out);
    line.wait(1);
    assert_eq!(line.gates()[0], Gate::Due);
    let probe = line.hosts[0].try_probe().unwrap();
    assert!(line.hosts[0].try_probe().is_none());
    // Cancelled: the next may.
    assert!(!line.hosts[0].probed(probe, Class::Ignored, Some(&line.alarm)));
    line.probe(0, Class::Success);
    assert_eq!(line.run(), [Event::Returned { address: address(0) }]);
    assert_eq!(line.gates()[0], Gate::In);
    line.record(0, Class::ServerError, 4);
    assert!(line.run().is_empty(), "it begins anew");
}

#[test]
fn ejections_grow_to_the_cap_and_shrink_with_good_intervals() {
    let mut line = Line::new(2, exact());
    line.record(0, Class::ServerError, 5);
    line.run();
    for n in 2..=12u64 {
        let seconds = 30 * (n - 1).min(10);
        line.wait(seconds);
        assert_eq!(line.gates()[0], Gate::Due, "after {seconds} s");
        line.probe(0, if n % 2 == 0 { Class::Throttled } else { Class::GatewayError });
        let time = Duration::from_secs(30 * n.min(10));
        let ejected = Event::Ejected { address: address(0), reason: Reason::Probe, time };
        assert_eq!(line.run(), [ejected]);
    }
    line.wait(300);
    line.probe(0, Class::Success);
    line.run();
    line.wait(100);
    line.record(0, Class::ServerError, 5);
    let Event::Ejected { time, .. } = line.run()[0] else { panic!("returned") };
    // Twelve times out, ten or eleven intervals in, out again.
    assert!(time <= Duration::from_secs(90), "{time:?}");
}

#[test]
fn a_probe_without_end_is_judged_by_its_head() {
    for good_head in [true, false] {
        let mut line = Line::new(2, exact());
        line.record(0, Class::ServerError, 5);
        line.run();
        line.wait(30);
        let mut probe = line.hosts[0].try_probe().unwrap();
        if good_head {
            line.hosts[0].reached(&mut probe);
        }
        let events = line.wait(21);
        assert_eq!(line.gates()[0], if good_head { Gate::In } else { Gate::Out }, "{events:?}");
        assert!(!line.hosts[0].probed(probe, Class::Success, None), "it is not the probe any more");
    }
}

#[test]
fn one_whose_success_rate_is_far_below_the_others_is_ejected() {
    let mut line = Line::new(10, OutlierDetection { failure_percentage: 0, consecutive_5xx: 0, ..many(50) });
    for host in 0..10 {
        // Mean 94.1 %, standard deviation 14.7 %.
        line.record(host, Class::Throttled, if host == 7 { 50 } else { 1 });
        line.record(host, Class::Success, if host == 7 { 50 } else { 99 });
    }
    assert!(line.run().is_empty(), "not before the interval is over");
    assert_eq!(reasons(&line.wait(10)), [Reason::SuccessRate]);
    assert_eq!(line.out(), BTreeSet::from([7]));
}

#[test]
fn equal_rates_have_no_outlier_and_few_requests_or_hosts_no_rate() {
    let config = OutlierDetection { consecutive_5xx: 0, failure_percentage: 0, ..many(100) };
    let mut line = Line::new(7, config.clone());
    for host in 0..7 {
        line.record(host, Class::Success, 70);
        line.record(host, Class::ServerError, 30);
    }
    assert!(line.wait(10).is_empty());

    for (hosts, requests) in [(4, 200), (7, 99)] {
        let mut line = Line::new(hosts, OutlierDetection { success_rate_stdev_factor: 0.5, ..config.clone() });
        for host in 0..hosts {
            line.record(host, if host == 0 { Class::ServerError } else { Class::Success }, requests);
        }
        assert!(line.wait(10).is_empty(), "{hosts} hosts with {requests} requests");
    }
}

#[test]
fn failures_beyond_a_share_eject_even_where_all_have_them() {
    let config = OutlierDetection { consecutive_5xx: 0, max_ejection_percent: 50, ..exact() };
    let mut line = Line::new(6, config);
    for host in 0..6 {
        line.record(host, Class::Success, 7);
        line.record(host, Class::ServerError, 43);
    }
    assert_eq!(reasons(&line.wait(10)), [Reason::FailurePercentage; 3]);
    assert_eq!(line.out().len(), 3, "and no more than the cap allows");
}

#[test]
fn the_cap_follows_the_number_of_endpoints() {
    let mut line = Line::new(20, many(20));
    for host in 0..10 {
        line.record(host, Class::ServerError, 5);
        line.run();
    }
    assert_eq!(line.out(), BTreeSet::from([0, 1, 2, 3]));
    line.serving = 10;
    assert_eq!(line.run().len(), 2);
    assert_eq!(line.out(), BTreeSet::from([2, 3]), "who returns first, returns");
    line.serving = 4;
    line.run();
    assert_eq!(line.out(), BTreeSet::from([3]), "at least one");

    let mut never = Line::new(9, OutlierDetection { always_eject_one: false, ..exact() });
    never.record(0, Class::ServerError, 50);
    assert!(never.wait(60).is_empty());
}

#[test]
fn whom_the_cap_saved_is_ejected_when_there_is_room() {
    let mut line = Line::new(2, exact());
    line.record(0, Class::ServerError, 5);
    line.run();
    line.record(1, Class::ServerError, 5);
    assert!(line.run().is_empty());
    assert!(line.hosts[0].restore());
    line.run();
    assert_eq!(line.gates(), [Gate::In, Gate::Out]);
}

#[tokio::test(start_paused = true)]
async fn the_alarm_rings_when_a_row_is_full_and_not_before() {
    let line = Line::new(1, exact());
    line.record(0, Class::ServerError, 4);
    let mut rang = tokio_test::task::spawn(line.alarm.rang());
    tokio_test::assert_pending!(rang.poll());
    line.record(0, Class::ServerError, 1);
    tokio_test::assert_ready!(rang.poll());
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Record(usize, Class, usize),
    TakeProbe(usize),
    SettleProbe(usize, Class),
    Restore(usize),
    Serve(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let class = || {
        prop_oneof![
            Just(Class::Success),
            Just(Class::Throttled),
            Just(Class::ServerError),
            Just(Class::GatewayError),
            Just(Class::Ignored)
        ]
    };
    let step = prop_oneof![
        (0u64..40).prop_map(Step::Wait),
        (0usize..12, class(), 1usize..120).prop_map(|(host, class, times)| Step::Record(host, class, times)),
        (0usize..12).prop_map(Step::TakeProbe),
        (0usize..12, class()).prop_map(|(host, class)| Step::SettleProbe(host, class)),
        (0usize..12).prop_map(Step::Restore),
        (1usize..=12).prop_map(Step::Serve),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn the_cap_holds_probes_are_single_and_nobody_is_out_for_good(steps in steps(), percent in 0u8..100, one: bool) {
        let config = OutlierDetection { max_ejection_percent: percent, always_eject_one: one, ..OutlierDetection::default() };
        let mut line = Line::new(12, config);
        let mut probes: Vec<Option<Probe>> = (0..12).map(|_| None).collect();
        for step in steps {
            match step {
                Step::Wait(seconds) => { line.wait(seconds); }
                Step::Record(host, class, times) => line.record(host, class, times),
                Step::TakeProbe(host) => if let Some(probe) = line.hosts[host].try_probe() {
                    // One that was given up by the detector may still be held: it is not the probe any more.
                    probes[host] = Some(probe);
                    prop_assert!(line.hosts[host].try_probe().is_none());
                },
                Step::SettleProbe(host, class) => if let Some(probe) = probes[host].take() {
                    line.hosts[host].probed(probe, class, Some(&line.alarm));
                },
                Step::Restore(host) => { line.hosts[host].restore(); }
                Step::Serve(hosts) => line.serving = hosts,
            }
            line.run();
            let cap = (line.serving * usize::from(line.config.max_ejection_percent) / 100).max(usize::from(one));
            prop_assert!(line.out().len() <= cap, "{} of {} are out", line.out().len(), line.serving);
            prop_assert_eq!(line.detector.ejected(), line.out().len());
        }
        // Probes are never settled, requests never come: still each one out is waiting for nothing but a probe.
        line.wait(700);
        for host in line.out() {
            prop_assert_eq!(line.hosts[host].gate(), Gate::Due);
            line.probe(host, Class::Success);
            prop_assert_eq!(line.hosts[host].gate(), Gate::In);
        }
    }
}

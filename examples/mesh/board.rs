//! What is printed.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _, stdout},
    sync::{PoisonError, atomic::AtomicU64, atomic::Ordering::Relaxed},
    time::Duration,
};

use portcullis::{balance::Availability, breaker::State};
use tokio::time::Instant;

use super::{
    schedule::Phase,
    services::{Client, World},
    visitors::{Seen, Visitors},
};

/// Prints a line each second, or, on a terminal, the table again.
pub(crate) struct Board<'a> {
    world: &'a World,
    visitors: &'a Visitors,
    length: Duration,
    terminal: bool,
    second: u64,
    before: Figures,
    /// How often each replica was left out, and whether it is.
    ejections: Vec<(u64, bool)>,
}

/// Counted from the start.
#[derive(Clone, Copy, Default)]
struct Figures {
    answered: usize,
    failed: u64,
    retries: u64,
    hedges: u64,
    passed_on: u64,
}

impl<'a> Board<'a> {
    pub(crate) fn new(world: &'a World, visitors: &'a Visitors, length: Duration) -> Self {
        let ejections = vec![(0, false); world.replicas.len()];
        let terminal = stdout().is_terminal();
        Self { world, visitors, length, terminal, second: 0, before: Figures::default(), ejections }
    }

    /// Counts what comes and goes between two seconds, and prints at each.
    pub(crate) fn look(&mut self, phase: Phase, elapsed: Duration) {
        for (state, count) in self.states().into_iter().zip(&mut self.ejections) {
            let out = !matches!(state, Availability::Available | Availability::Probing);
            count.0 += u64::from(out && !count.1);
            count.1 = out;
        }
        if elapsed.as_secs() > self.second {
            self.second = elapsed.as_secs();
            self.print(phase);
        }
    }

    fn states(&self) -> Vec<Availability> {
        let now = Instant::now();
        let endpoints = self.world.shop.orders.upstream.endpoints();
        let state_of = |address| {
            let found = endpoints.iter().find(|(endpoint, _)| endpoint.address() == address);
            found.map_or(Availability::Unhealthy, |(endpoint, _)| endpoint.availability(now))
        };
        self.world.replicas.iter().map(|replica| state_of(replica.address)).collect()
    }

    fn figures(&self, seen: &Seen) -> Figures {
        let mut figures = Figures { answered: seen.latencies.len(), failed: seen.failed, ..Figures::default() };
        let replicas = self.world.replicas.iter().map(|replica| &replica.shop);
        for tally in replicas.chain([&self.world.shop.orders]).map(|client| &client.tally) {
            figures.retries += get(&tally.retries);
            figures.hedges += get(&tally.hedges);
            figures.passed_on += get(&tally.passed_on);
        }
        figures
    }

    fn print(&mut self, phase: Phase) {
        let seen = self.visitors.seen();
        let now = self.figures(&seen);
        let mut latest = seen.latencies.get(self.before.answered..).unwrap_or_default().to_vec();
        drop(seen);
        latest.sort_unstable();
        let before = std::mem::replace(&mut self.before, now);
        let failed = now.failed - before.failed;
        let requests = latest.len() as u64 + failed;
        let breakers: Vec<_> = self.world.replicas.iter().map(|replica| breaker(&replica.shop)).collect();
        let line = format!(
            "{:>6} /s  {:>7} ok  p50 {:>9}  p99 {:>9}  retries {:>3}  hedges {:>3}  passed on {:>3}",
            requests,
            share(latest.len() as u64, requests),
            percentile(&latest, 0.50),
            percentile(&latest, 0.99),
            now.retries - before.retries,
            now.hedges - before.hedges,
            now.passed_on - before.passed_on,
        );
        let states = self.states();
        if !self.terminal {
            let states: Vec<_> = states.into_iter().map(state).collect();
            let (second, phase) = (self.second, phase.describe());
            let (states, own, theirs) = (states.join(" "), breaker(&self.world.shop.orders), breakers.join(" "));
            println!("{second:>3} s  {phase:<20} {line}  orders [{states}]  breakers {own} [{theirs}]");
            return;
        }
        let mut page = format!(
            "portcullis mesh: {} of {} s, {}\n\nvisitors  {line}\n\nshop -> orders, breaker {}\n",
            self.second,
            self.length.as_secs(),
            phase.describe(),
            breaker(&self.world.shop.orders),
        );
        let _ = writeln!(
            page,
            "  {:<10}{:<11}{:>10}{:>10}{:>8}{:>8}   -> shop, breaker",
            "", "", "ejections", "requests", "slow", "500"
        );
        for (((replica, state_now), breaker), (ejections, _)) in
            self.world.replicas.iter().zip(states).zip(breakers).zip(&self.ejections)
        {
            let _ = writeln!(
                page,
                "  {:<10}{:<11}{ejections:>10}{:>10}{:>8}{:>8}   {breaker}",
                replica.name,
                state(state_now),
                get(&replica.requests),
                get(&replica.slowed),
                get(&replica.failed),
            );
        }
        // From the top, over what was there.
        print!("\x1b[H\x1b[2J{page}");
        let _ = stdout().flush();
    }

    /// What was wrong behind the layers, and what of it was seen before them.
    pub(crate) fn sum_up(&self) {
        let mut seen = self.visitors.seen().clone();
        seen.latencies.sort_unstable();
        let figures = self.figures(&seen);
        let requests = seen.latencies.len() as u64 + seen.failed;
        let ledger = &self.world.ledger;
        let certificates = ledger.certificates.lock().unwrap_or_else(PoisonError::into_inner).len();
        let placed = ledger.placed.lock().unwrap_or_else(PoisonError::into_inner);
        let twice = placed.values().filter(|times| **times > 1).count();
        let unnamed: u64 = self.world.replicas.iter().map(|replica| get(&replica.unnamed)).sum();
        println!("\nbehind the layers");
        for (replica, (ejections, _)) in self.world.replicas.iter().zip(&self.ejections) {
            println!(
                "  {}: {} requests, {} answered late, {} answered 500; left out {ejections} times",
                replica.name,
                get(&replica.requests),
                get(&replica.slowed),
                get(&replica.failed),
            );
        }
        println!(
            "  shop: {} names asked for and answered 500; breakers kept {} more from it",
            get(&self.world.shop.failed),
            self.world
                .replicas
                .iter()
                .filter_map(|r| r.shop.upstream.circuit())
                .map(|c| c.stats().refused)
                .sum::<u64>()
        );
        println!("  shop showed {certificates} certificates, one after the other");
        println!(
            "  {} retries, {} hedges, {} passed on to another replica",
            figures.retries, figures.hedges, figures.passed_on
        );
        println!("what the visitors saw");
        println!("  {requests} requests, {} failed: {} ok", seen.failed, share(requests - seen.failed, requests));
        println!(
            "  p50 {}, p99 {}",
            percentile(&seen.latencies, 0.50).trim(),
            percentile(&seen.latencies, 0.99).trim()
        );
        println!(
            "  {} of them placed an order (POST, without a key): {} failed, {twice} placed twice",
            seen.posts, seen.posts_failed
        );
        println!("  {unnamed} answers without the customer's name, as shop had none");
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.2}%", part as f64 * 100.0 / whole as f64) }
}

/// Of latencies that are sorted.
fn percentile(latencies: &[u32], share: f64) -> String {
    let rank = (latencies.len() as f64 * share) as usize;
    latencies.get(rank).map_or_else(|| "-".to_owned(), |micros| format!("{:.1} ms", f64::from(*micros) / 1000.0))
}

fn state(availability: Availability) -> &'static str {
    match availability {
        Availability::Available => "in",
        Availability::Ejected => "ejected",
        Availability::Due | Availability::Probing => "probing",
        Availability::Open => "open",
        _ => "out",
    }
}

fn breaker(client: &Client) -> &'static str {
    match client.upstream.circuit().map(portcullis::breaker::Circuit::state) {
        Some(State::Closed) => "closed",
        Some(State::Open) => "open",
        Some(_) => "half-open",
        None => "none",
    }
}

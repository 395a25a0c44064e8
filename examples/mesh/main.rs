//! Two services that call each other over mutual TLS, while what they call breaks on a schedule.
//!
//! `cargo run --release --example mesh [-- [--seconds N] [--seed N] [--rate N]]`
//!
//! ```text
//! visitors --HTTP--> shop --mTLS--> orders (4 replicas) --mTLS--> shop
//! ```
//!
//! `shop` asks `orders`, and an order asks `shop` for its customer's name: each call goes through the layers in
//! [`services`]. Certificates are made at the start, as a mesh issues them: one URI for a name, and no subject. Meanwhile one
//! replica becomes slow, one dies and comes back, one answers 500, all certificates and their authority are replaced, and
//! `shop` has no names to give. A line a second tells how it goes (on a terminal: a table), and a summary at the end compares
//! what went wrong behind the layers with what the visitors saw of it. Ctrl-C ends it early.

mod board;
mod pki;
mod schedule;
mod services;
mod visitors;

use std::{sync::Arc, time::Duration};

use portcullis::{BoxError, server::shutdown_signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::{board::Board, pki::Mesh, schedule::Phase, services::World, visitors::Visitors};

#[derive(Clone, Copy)]
struct Options {
    /// For the whole schedule, whose phases are as long as each other.
    length: Duration,
    /// Of what visitors ask for and of the time that orders take.
    seed: u64,
    /// Visits a second.
    rate: u32,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let options = Options::from_args(std::env::args().skip(1))?;
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let mesh = Arc::new(Mesh::new()?);
    let world = World::start(&mesh, options.seed)?;
    let visitors = Visitors::start(world.shop_address(), options)?;
    let mut board = Board::new(&world, &visitors, options.length);

    let mut stop = Box::pin(shutdown_signal()?);
    let (began, mut phase) = (Instant::now(), None);
    let mut ticks = interval(Duration::from_millis(50));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut stop => break,
        }
        let Some(now) = Phase::at(began.elapsed(), options.length) else { break };
        if phase.replace(now) != Some(now) {
            now.begin(&world, &mesh, Phase::length(options.length));
        }
        board.look(now, began.elapsed());
    }
    visitors.stop().await;
    board.sum_up();
    Ok(())
}

impl Options {
    fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self, BoxError> {
        let (mut seconds, mut seed, mut rate) = (35, 1, 400);
        while let Some(name) = args.next() {
            let number = args.next().and_then(|value| value.parse::<u32>().ok());
            match (name.as_str(), number) {
                ("--seconds", Some(number @ 1..)) => seconds = number,
                ("--seed", Some(number)) => seed = number,
                ("--rate", Some(number @ 1..)) => rate = number,
                _ => return Err(format!("{name}: expected [--seconds N] [--seed N] [--rate N]").into()),
            }
        }
        Ok(Self { length: Duration::from_secs(seconds.into()), seed: seed.into(), rate })
    }
}

//! The record of a stream.

use std::sync::{Arc, Mutex};

use crate::{
    Outcome,
    telemetry::{Finished, FinishedStream, OpenStream, Recorder, StreamFacts, StreamRecorder, TelemetryLayer},
};

type Seen = Arc<Mutex<Vec<String>>>;

struct Watching(Seen);

impl Recorder for Watching {
    fn finished(&self, _: &Finished) {}

    fn stream(&self, stream: &StreamFacts) -> Option<Box<dyn StreamRecorder>> {
        self.0.lock().unwrap().push(format!("began for {}", stream.client));
        Some(Box::new(Watcher(self.0.clone())))
    }
}

struct Watcher(Seen);

impl StreamRecorder for Watcher {
    fn copied(&mut self, received: u64, sent: u64) {
        self.0.lock().unwrap().push(format!("+{received} +{sent}"));
    }

    fn finished(&mut self, finished: &FinishedStream) {
        let FinishedStream { outcome, received_bytes, sent_bytes, duration, .. } = finished;
        let line = format!("{outcome} {received_bytes} {sent_bytes} after {}", duration.as_secs());
        self.0.lock().unwrap().push(line);
    }
}

/// Panics whenever it is told something of a stream.
struct Broken(bool);

impl Recorder for Broken {
    fn finished(&self, _: &Finished) {}

    fn stream(&self, _: &StreamFacts) -> Option<Box<dyn StreamRecorder>> {
        assert!(self.0, "at the beginning");
        Some(Box::new(Self(true)))
    }
}

impl StreamRecorder for Broken {
    fn copied(&mut self, _: u64, _: u64) {
        panic!("on the way");
    }

    fn finished(&mut self, _: &FinishedStream) {
        panic!("at the end");
    }
}

fn stream() -> (OpenStream, Seen) {
    let seen = Seen::default();
    let broken = TelemetryLayer::new().recorder(Broken(false)).recorder(Broken(true));
    let layer = broken.recorder(|_: &Finished| unreachable!("it is no request")).recorder(Watching(seen.clone()));
    (layer.stream(StreamFacts::new([192, 0, 2, 7].into())), seen)
}

#[tokio::test(start_paused = true)]
async fn what_is_passed_on_is_told_as_it_happens_and_once_more_at_the_end() {
    let (mut stream, seen) = stream();
    for (received, sent) in [(0, 0), (10, 0), (10, 0), (15, 7)] {
        stream.copied(received, sent);
    }
    tokio::time::advance(std::time::Duration::from_secs(3)).await;
    stream.end(Outcome::Completed, None);
    assert_eq!(*seen.lock().unwrap(), ["began for 192.0.2.7", "+10 +0", "+5 +7", "completed 15 7 after 3"]);
}

#[test]
fn a_stream_that_is_dropped_is_cancelled_and_one_that_panics_is_a_defect() {
    let (mut dropped, seen) = stream();
    dropped.copied(1, 2);
    drop(dropped);
    assert_eq!(seen.lock().unwrap().last().unwrap(), "cancelled 1 2 after 0");
    let (panics, seen) = stream();
    let unwound = std::thread::spawn(move || {
        let _panics = panics;
        panic!("while a stream is open");
    });
    assert!(unwound.join().is_err());
    assert_eq!(seen.lock().unwrap().last().unwrap(), "internal 0 0 after 0");
}

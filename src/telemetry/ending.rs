//! The guard that ends a request's record exactly once.

use std::{
    any::Any,
    error::Error as StdError,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body as HttpBody;
use tokio::time::{Duration, Instant};

use super::{Finished, Interest, MethodLabel, Recorder, RequestFacts};
use crate::{
    Body, BoxError, Error, Outcome,
    body::{End, Observer},
    error::{chain, outcome_of},
    exchange::Exchange,
    grpc,
};

pub(super) type Recorders = Arc<Vec<Arc<dyn Recorder>>>;

/// One request that has begun. Lives in the response future until the head is there, then watches the body.
pub(super) struct Ending {
    recorders: Recorders,
    exchange: Exchange,
    method: MethodLabel,
    request: Option<RequestFacts>,
    status: Option<StatusCode>,
    grpc_status: Option<u32>,
    answered: Option<Outcome>,
    head_after: Option<Duration>,
    response_bytes: u64,
    due: Due,
    ended: bool,
}

/// What has to go by before a response's body may be dropped without being cut short.
#[derive(Clone, Copy)]
enum Due {
    Nothing,
    Bytes(u64),
    Unknown,
}

enum How<'a> {
    Complete,
    Failed(Outcome, Option<&'a (dyn StdError + 'static)>),
    Dropped,
}

impl Ending {
    /// Begins the exchange of `request`, if any recorder wants to know.
    ///
    /// In its box from the beginning: it is moved a few times before it watches the body, which needs one anyway.
    pub(super) fn begin(recorders: &Recorders, request: &mut Request<Body>) -> Option<Box<Self>> {
        let interest = recorders.iter().map(|recorder| recorder.interest()).max()?;
        if interest == Interest::None {
            return None;
        }
        let exchange = Exchange::begin();
        let facts = (interest == Interest::Request).then(|| RequestFacts::of(request));
        request.extensions_mut().insert(exchange.clone());
        let ending = Box::new(Self {
            recorders: Arc::clone(recorders),
            exchange,
            method: request.method().into(),
            request: facts,
            status: None,
            grpc_status: None,
            answered: None,
            head_after: None,
            response_bytes: 0,
            due: if *request.method() == Method::HEAD { Due::Nothing } else { Due::Unknown },
            ended: false,
        });
        if !request.body().is_end_stream() {
            request.body_mut().observe(Box::new(RequestBytes(ending.exchange.clone())));
        }
        for recorder in recorders.iter() {
            guarded(|| recorder.begun());
        }
        Some(ending)
    }

    /// The head is there: from now on the response's body is watched, to its end.
    pub(super) fn head(mut self: Box<Self>, response: &mut Response<Body>) {
        let now = Instant::now();
        let status = response.status();
        self.status = Some(status);
        self.answered = response.extensions().get().copied();
        self.grpc_status = grpc::status(response.headers());
        self.due = match self.due {
            Due::Unknown => due(response),
            due => due,
        };
        self.head_after = Some(now.saturating_duration_since(self.exchange.began()));
        if response.body().is_end_stream() {
            self.end(now, &How::Complete);
        } else {
            response.body_mut().observe(self);
        }
    }

    /// The service failed.
    pub(super) fn failed<E: 'static>(mut self, error: &E) {
        let error: &dyn Any = error;
        let error: Option<&(dyn StdError + 'static)> =
            match (error.downcast_ref::<Error>(), error.downcast_ref::<BoxError>()) {
                (Some(error), _) => Some(error),
                (_, Some(error)) => Some(error.as_ref()),
                _ => None,
            };
        let outcome = error.and_then(outcome_of).unwrap_or(Outcome::Internal);
        self.end(Instant::now(), &How::Failed(outcome, error));
    }

    fn end(&mut self, now: Instant, how: &How<'_>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let mut record = self.exchange.record();
        let told = record.outcome.filter(|outcome| *outcome != Outcome::Completed);
        let outcome = told.unwrap_or_else(|| match how {
            How::Failed(outcome, _) => *outcome,
            How::Complete => self.answered.unwrap_or(Outcome::Completed),
            How::Dropped if self.all_sent() => self.answered.unwrap_or(Outcome::Completed),
            How::Dropped if std::thread::panicking() => Outcome::Internal,
            How::Dropped => self.answered.unwrap_or(Outcome::Cancelled),
        });
        record.outcome = Some(outcome);
        record.head_after = record.head_after.or(self.head_after);
        if let (None, How::Failed(_, Some(error))) = (&record.detail, how) {
            record.detail = Some(text_of(*error));
        }
        let finished = Finished {
            outcome,
            status: self.status,
            grpc_status: self.grpc_status,
            method: self.method,
            response_bytes: self.response_bytes,
            duration: now.saturating_duration_since(self.exchange.began()),
            record,
            request: self.request.take(),
        };
        for recorder in self.recorders.iter() {
            guarded(|| recorder.finished(&finished));
        }
    }

    fn all_sent(&self) -> bool {
        self.status.is_some()
            && match self.due {
                Due::Nothing => true,
                Due::Bytes(due) => self.response_bytes >= due,
                Due::Unknown => false,
            }
    }
}

impl Observer for Ending {
    fn data(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.grpc_status = grpc::status(trailers).or(self.grpc_status);
        self.due = Due::Nothing;
    }

    fn end(&mut self, end: End<'_>) {
        let now = Instant::now();
        match end {
            End::Complete => self.end(now, &How::Complete),
            End::Failed(error) => {
                let error: &(dyn StdError + 'static) = error.as_ref();
                self.end(now, &How::Failed(outcome_of(error).unwrap_or(Outcome::ResponseTruncated), Some(error)));
            }
            End::Dropped => self.end(now, &How::Dropped),
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Instant::now(), &How::Dropped);
        }
    }
}

/// Counts a request's body into its exchange.
struct RequestBytes(Exchange);

impl Observer for RequestBytes {
    fn data(&mut self, bytes: usize) {
        self.0.update(|record| record.request_bytes += bytes as u64);
    }

    fn end(&mut self, _: End<'_>) {}
}

/// A recorder's panic must neither keep the others from their record nor, in a drop while unwinding, abort the process.
pub(super) fn guarded(call: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(call)).is_err() {
        tracing::error!("a telemetry recorder panicked; its record is lost");
    }
}

fn due(response: &Response<Body>) -> Due {
    let status = response.status();
    if status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        return Due::Nothing;
    }
    let declared = || response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok();
    response.body().size_hint().exact().or_else(declared).map_or(Due::Unknown, Due::Bytes)
}

fn text_of(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for error in chain(error) {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        // Its text is that of the whole chain.
        if error.is::<Error>() {
            break;
        }
    }
    text
}

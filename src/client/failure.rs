//! What hyper's errors mean for the request.

use std::{error::Error as StdError, io};

#[cfg(feature = "tls")]
use crate::tls::CertificateRefused;
use crate::{BoxError, Error, Outcome, Sent};

/// Why a request that was given to a connection got no answer.
pub(super) fn of_request(error: hyper::Error) -> Error {
    #[cfg(feature = "tls")]
    if let Some(refused) = find::<io::Error>(&error).and_then(CertificateRefused::find) {
        // With TLS 1.3 a peer refuses our certificate after the handshake, when the request may have been read.
        return Error::new(Outcome::CertificateRefused).with_sent(Sent::Possibly).with_source(refused);
    }
    let sent = match find::<h2::Error>(&error) {
        // RFC 9113 sections 8.7 and 6.8: not processed. Streams that a GOAWAY still lets live do not end with it.
        Some(_) if is_go_away(&error) => Sent::GoAway,
        Some(h2) if h2.is_remote() && (h2.is_go_away() || h2.reason() == Some(h2::Reason::REFUSED_STREAM)) => {
            Sent::Refused
        }
        _ => Sent::Possibly,
    };
    Error::new(outcome(&error)).with_sent(sent).with_source(error)
}

/// Whether the peer was ending the connection as it should, and did not process the request.
pub(super) fn is_go_away(error: &hyper::Error) -> bool {
    find::<h2::Error>(error)
        .is_some_and(|h2| h2.is_remote() && h2.is_go_away() && h2.reason() == Some(h2::Reason::NO_ERROR))
}

/// Why a request on a connection got no answer that TLS ended after its handshake.
#[cfg(feature = "tls")]
pub(super) fn of_tls(error: &rustls::Error) -> Error {
    let failed = match CertificateRefused::of(error) {
        Some(refused) => Error::new(Outcome::CertificateRefused).with_source(refused),
        None => Error::new(Outcome::TlsFailed).with_source(error.clone()),
    };
    failed.with_sent(Sent::Possibly)
}

/// Why a response's body ended early.
pub(super) fn of_body(error: hyper::Error) -> Error {
    let outcome = match outcome(&error) {
        Outcome::UpstreamReset if !is_reset(&error) => Outcome::ResponseTruncated,
        outcome => outcome,
    };
    Error::new(outcome).with_source(error)
}

/// Why a request ended whose own body failed: what its error says, or else that the client gave up.
pub(super) fn of_upload(error: BoxError) -> Error {
    let outcome = find::<Error>(&*error).map_or(Outcome::Cancelled, Error::outcome);
    Error::new(outcome).with_sent(Sent::Possibly).with_source(error)
}

fn outcome(error: &hyper::Error) -> Outcome {
    if error.is_parse() {
        return Outcome::UpstreamProtocol;
    }
    if let Some(h2) = find::<h2::Error>(error) {
        // What this side found wrong is a fault in what the peer sent; all else is how the peer or the network ended it.
        return if h2.is_library() { Outcome::UpstreamProtocol } else { Outcome::UpstreamReset };
    }
    if let Some(io) = find::<io::Error>(error) {
        #[cfg(feature = "tls")]
        if io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            return Outcome::TlsFailed;
        }
        if matches!(io.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) {
            return Outcome::UpstreamProtocol;
        }
    }
    Outcome::UpstreamReset
}

/// The connection or stream was reset rather than closed.
fn is_reset(error: &hyper::Error) -> bool {
    find::<h2::Error>(error).is_some_and(h2::Error::is_remote)
        || find::<io::Error>(error).is_some_and(|io| io.kind() == io::ErrorKind::ConnectionReset)
}

fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

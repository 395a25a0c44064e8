//! How a gRPC call ended, as header fields and trailers tell it.
//!
//! A call ends with `grpc-status`: in trailers, or in the head of a response without a body ("trailers-only"), while the
//! HTTP status is 200 either way. Everything that judges or records a response reads it here.

use std::fmt;

use http::{HeaderMap, HeaderName, StatusCode};

/// `grpc-status`.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A gRPC status code.
///
/// # Example
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use portcullis::grpc::Code;
///
/// let mut trailers = HeaderMap::new();
/// assert_eq!(Code::of(&trailers), None);
/// trailers.insert("grpc-status", HeaderValue::from_static("14"));
/// assert_eq!(Code::of(&trailers), Some(Code::Unavailable));
/// assert_eq!(Code::Unavailable.to_string(), "UNAVAILABLE");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Code {
    /// Success.
    Ok = 0,
    /// Given up, mostly by the caller.
    Cancelled = 1,
    /// Also for what is no code at all.
    Unknown = 2,
    /// The request makes no sense, whatever the state of the system.
    InvalidArgument = 3,
    /// Too late.
    DeadlineExceeded = 4,
    /// Something asked for does not exist.
    NotFound = 5,
    /// Something to be made exists.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A quota or a resource is used up.
    ResourceExhausted = 8,
    /// The system is not in the state that the request needs.
    FailedPrecondition = 9,
    /// A conflict with another call.
    Aborted = 10,
    /// Past the valid range.
    OutOfRange = 11,
    /// Not supported here.
    Unimplemented = 12,
    /// A defect.
    Internal = 13,
    /// Not available now; trying again may help.
    Unavailable = 14,
    /// Data is lost beyond recovery.
    DataLoss = 15,
    /// It is not known who the caller is.
    Unauthenticated = 16,
}

/// By number.
const CODES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "CANCELLED"),
    (Code::Unknown, "UNKNOWN"),
    (Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, "ABORTED"),
    (Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, "INTERNAL"),
    (Code::Unavailable, "UNAVAILABLE"),
    (Code::DataLoss, "DATA_LOSS"),
    (Code::Unauthenticated, "UNAUTHENTICATED"),
];

impl Code {
    /// The code in these trailers or header fields, if there is one. What is none of the known numbers is
    /// [`Unknown`](Self::Unknown), as gRPC has it.
    #[must_use]
    pub fn of(fields: &HeaderMap) -> Option<Self> {
        fields.get(STATUS)?;
        let known = status(fields).and_then(|number| CODES.get(usize::try_from(number).ok()?));
        Some(known.map_or(Self::Unknown, |(code, _)| *code))
    }

    /// The code of this number.
    pub(crate) fn numbered(number: u8) -> Option<Self> {
        CODES.get(usize::from(number)).map(|(code, _)| *code)
    }

    /// What a client makes of an answer that is not gRPC's, by its HTTP status: gRPC's own table.
    pub(crate) fn of_http(status: StatusCode) -> Self {
        match status.as_u16() {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502..=504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }

    /// The name in capitals, as gRPC's documents write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        CODES.get(self as usize).map_or("UNKNOWN", |(_, name)| name)
    }

    /// Whether it is the server's failure rather than the application's answer: `DEADLINE_EXCEEDED`,
    /// `RESOURCE_EXHAUSTED`, `INTERNAL`, `UNAVAILABLE`, `DATA_LOSS`.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(
            self,
            Self::DeadlineExceeded | Self::ResourceExhausted | Self::Internal | Self::Unavailable | Self::DataLoss
        )
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The number in `grpc-status`, also one that gRPC does not know.
pub(crate) fn status(fields: &HeaderMap) -> Option<u32> {
    fields.get(STATUS)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_where_their_numbers_say() {
        for (number, (code, name)) in CODES.into_iter().enumerate() {
            let fields = HeaderMap::from_iter([(STATUS, number.into())]);
            assert_eq!((code as usize, Code::of(&fields), code.as_str()), (number, Some(code), name));
        }
    }

    #[test]
    fn what_is_no_code_is_unknown() {
        for value in ["17", "", "-1", "x", "99999999999"] {
            let fields = HeaderMap::from_iter([(STATUS, value.parse().unwrap())]);
            assert_eq!(Code::of(&fields), Some(Code::Unknown), "{value}");
        }
    }
}

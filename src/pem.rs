//! What the parser of PEM says, in words that may be shown.

use rustls_pki_types::pem::Error;

/// Without the text it read, which may be a key's: one that has lost its line breaks is all of it a label.
pub(crate) fn why(error: &Error) -> &'static str {
    match error {
        Error::MissingSectionEnd { .. } => "its `END` line is missing, or not on a line of its own",
        Error::IllegalSectionStart { .. } => "its `BEGIN` line is malformed",
        Error::Base64Decode(_) => "its base64 is damaged",
        _ => "it cannot be read",
    }
}

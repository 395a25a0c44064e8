use bytes::Bytes;

/// What a page of [`Admin`](super::Admin) shows at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its media type, such as `text/plain; charset=utf-8`.
    pub content_type: &'static str,
    /// Its content.
    pub content: Bytes,
}

impl Page {
    /// Plain text.
    #[must_use]
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self { content_type: "text/plain; charset=utf-8", content: text.into() }
    }

    /// A JSON text.
    #[must_use]
    pub fn json(json: impl Into<Bytes>) -> Self {
        Self { content_type: "application/json", content: json.into() }
    }
}

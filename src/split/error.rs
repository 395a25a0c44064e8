use thiserror::Error;

/// Why a split, a session or a rollout cannot be served as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidSplit {
    /// A header field's name is none.
    #[error("`{0}` is not a header field name: use letters, digits and `-`")]
    Header(String),
    /// A cookie's name is none.
    #[error("`{0}` is not a cookie's name: use letters, digits, `-` and `_`")]
    Cookie(String),
    /// A cookie that browsers keep has to say for how long.
    #[error("the session's cookie `{0}` is permanent: give the session an absolute timeout")]
    Permanent(String),
    /// A rollout names none of the rule's backends.
    #[error("the rollout's canary `{0}` is none of the rule's backends")]
    UnknownCanary(String),
    /// All of a rule's traffic would be the canary's.
    #[error("beside the rollout's canary `{0}` the rule has no backend with a weight: add the stable one")]
    NoStable(String),
    /// A rollout's steps lead nowhere.
    #[error("the rollout's steps have to be shares in percent from 1 to 99, each greater than the one before")]
    Steps,
}

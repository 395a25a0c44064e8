use std::{sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{Forward, InvalidPseudonym, Tunnels, via::Via};

/// Forwards requests as RFC 9110 has it; see the [module](super) for the rules.
#[derive(Debug, Clone)]
#[must_use]
pub struct ForwardLayer {
    settings: Arc<Settings>,
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) via: Via,
    pub(super) response_via: bool,
    pub(super) refuse_h2c: bool,
    pub(super) continue_timeout: Duration,
    pub(super) tunnel_idle_timeout: Duration,
    pub(super) tunnels: Tunnels,
}

impl ForwardLayer {
    /// A layer with default settings and a pseudonym of its own: `portcullis-` and eight random hexadecimal digits.
    pub fn new() -> Self {
        let settings = Settings {
            via: Via::random(),
            response_via: true,
            refuse_h2c: false,
            continue_timeout: Duration::from_secs(1),
            tunnel_idle_timeout: Duration::from_secs(300),
            tunnels: Tunnels::new(),
        };
        Self { settings: Arc::new(settings) }
    }

    /// The pseudonym in `Via`, by which loops are found: a request that already names it is refused with
    /// [`Outcome::Loop`](crate::Outcome::Loop). Give one that no other hop of the way has. Default: see
    /// [`new`](Self::new).
    ///
    /// # Errors
    /// When the pseudonym has other characters than letters, digits, `-`, `.` and `_`, or none.
    pub fn via(mut self, pseudonym: &str) -> Result<Self, InvalidPseudonym> {
        self.set().via = Via::new(pseudonym)?;
        Ok(self)
    }

    /// Whether responses get `Via` too; RFC 9110 leaves that to a gateway. Default: yes.
    pub fn response_via(mut self, append: bool) -> Self {
        self.set().response_via = append;
        self
    }

    /// Whether a request with `Upgrade: h2c` is refused (501), rather than answered over HTTP/1.1 as if it had not asked.
    /// The switch is never made. Default: no, because clients that prefer HTTP/2 ask so on every first request.
    pub fn refuse_h2c(mut self, refuse: bool) -> Self {
        self.set().refuse_h2c = refuse;
        self
    }

    /// How long the body of a request with `Expect: 100-continue` waits for the upstream to want it. Default: 1 s, as
    /// curl has it; RFC 9110 section 10.1.1 asks not to wait forever.
    pub fn continue_timeout(mut self, timeout: Duration) -> Self {
        self.set().continue_timeout = timeout;
        self
    }

    /// How long a tunnel may be without a byte in either direction. Default: 5 min, Envoy's stream idle timeout.
    pub fn tunnel_idle_timeout(mut self, timeout: Duration) -> Self {
        self.set().tunnel_idle_timeout = timeout;
        self
    }

    /// Where tunnels are counted and can be ended. Default: a registry of the layer's own.
    pub fn tunnels(mut self, tunnels: Tunnels) -> Self {
        self.set().tunnels = tunnels;
        self
    }

    fn set(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.settings)
    }
}

impl Default for ForwardLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ForwardLayer {
    type Service = Forward<S>;

    fn layer(&self, inner: S) -> Forward<S> {
        Forward::new(inner, Arc::clone(&self.settings))
    }
}

use std::{net::IpAddr, sync::Arc};

use http::{HeaderName, Request};
use ipnet::IpNet;
use tower_layer::Layer;

use super::{ClientCert, Forwarded, names, service};
use crate::{
    config::{self, ClientCertFilter},
    identity::SpiffeId,
};

/// Tells services who the client is; see the [module](super) for the rules.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct ForwardedLayer {
    settings: Arc<Settings>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub(super) trusted: Vec<IpNet>,
    pub(super) forwarded: bool,
    pub(super) drop_underscores: bool,
    pub(super) protected: Vec<HeaderName>,
    pub(super) client_cert: ClientCert,
    pub(super) by: Option<SpiffeId>,
}

impl ForwardedLayer {
    /// A layer that trusts nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// The layer that a configuration asks for.
    pub fn configured(settings: config::Forwarded) -> Self {
        let config::Forwarded { trust, rfc7239, drop_underscores, protect, client_cert } = settings;
        let layer = Self::new().trust(trust).forwarded(rfc7239).drop_underscores(drop_underscores).protect(protect);
        match client_cert {
            Some(ClientCertFilter { tell, by: Some(by) }) => layer.client_cert(tell).client_cert_by(by),
            Some(ClientCertFilter { tell, by: None }) => layer.client_cert(tell),
            None => layer,
        }
    }

    /// Does to a request what the layer's service does.
    pub(crate) fn tell<B>(&self, request: &mut Request<B>) {
        service::tell(request, &self.settings);
    }

    /// Trusts peers in these networks too, to have told the truth about who their own peer is. Default: none.
    pub fn trust(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        Arc::make_mut(&mut self.settings).trusted.extend(networks);
        self
    }

    /// Whether `Forwarded` (RFC 7239) is set as well. Default: no; one that a trusted peer sent is appended to either
    /// way.
    pub fn forwarded(mut self, set: bool) -> Self {
        Arc::make_mut(&mut self.settings).forwarded = set;
        self
    }

    /// Whether every field with an underscore in its name is dropped, as nginx does (`underscores_in_headers off`), and
    /// not only those that read like another field. Default: no.
    ///
    /// Say yes where a service behind is a CGI, WSGI, PHP or Rack program and layers after this one add fields that it
    /// believes.
    pub fn drop_underscores(mut self, all: bool) -> Self {
        Arc::make_mut(&mut self.settings).drop_underscores = all;
        self
    }

    /// Protects these fields too: dropped when they come from a peer that is not trusted. Default:
    /// [`is_protected`](super::is_protected).
    pub fn protect(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        Arc::make_mut(&mut self.settings).protected.extend(names);
        self
    }

    /// What becomes of `X-Forwarded-Client-Cert`. Default: [`ClientCert::Keep`].
    pub fn client_cert(mut self, told: ClientCert) -> Self {
        Arc::make_mut(&mut self.settings).client_cert = told;
        self
    }

    /// Who we are to the peer, for `By` in `X-Forwarded-Client-Cert`. Default: not told.
    pub fn client_cert_by(mut self, id: SpiffeId) -> Self {
        Arc::make_mut(&mut self.settings).by = Some(id);
        self
    }
}

impl<S> Layer<S> for ForwardedLayer {
    type Service = Forwarded<S>;

    fn layer(&self, inner: S) -> Forwarded<S> {
        Forwarded::new(inner, Arc::clone(&self.settings))
    }
}

impl Settings {
    pub(super) fn trusts(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.trusted.iter().any(|network| network.contains(&ip))
    }

    pub(super) fn protects(&self, name: &str) -> bool {
        names::is_protected(name) || self.protected.iter().any(|protected| protected == name)
    }
}

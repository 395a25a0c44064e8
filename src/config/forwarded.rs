//! Whom to believe about who the client is.

use http::HeaderName;
use ipnet::IpNet;
#[cfg(feature = "yaml")]
use serde::Deserialize;

use super::ClientCertFilter;

/// Who the client is, and what backends are told of it; see [`forwarded`](crate::forwarded), whose layer it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "yaml", derive(Deserialize), serde(deny_unknown_fields, default))]
pub struct Forwarded {
    /// The networks of load balancers and proxies in front of this one, whose word on who the client is counts (nginx's
    /// `set_real_ip_from`). Default none.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "super::yaml::networks"))]
    pub trust: Vec<IpNet>,
    /// Whether `Forwarded` (RFC 7239) is set as well. Default false.
    pub rfc7239: bool,
    /// Whether every field with an underscore in its name is dropped (nginx's `underscores_in_headers off`). Default false:
    /// those that read like another field.
    pub drop_underscores: bool,
    /// Fields that are dropped too when they come from a peer that is not trusted. Default none.
    #[cfg_attr(feature = "yaml", serde(deserialize_with = "super::yaml::names"))]
    pub protect: Vec<HeaderName>,
    /// What is told of the client's certificate, where no rule says otherwise. Default: nothing, and a trusted peer's word
    /// is passed on.
    pub client_cert: Option<ClientCertFilter>,
}

#[cfg(all(test, feature = "yaml"))]
mod tests {
    use super::*;
    use crate::config::ClientCert;

    #[test]
    fn networks_are_written_with_or_without_a_length() {
        let text = "{trust: [10.0.0.0/8, 192.0.2.1, '2001:db8::/32', '::1'], rfc7239: true, drop_underscores: true, \
                    protect: [X-User], client_cert: {tell: append}}";
        let expected = Forwarded {
            trust: ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "::1/128"].map(|net| net.parse().unwrap()).into(),
            rfc7239: true,
            drop_underscores: true,
            protect: vec![HeaderName::from_static("x-user")],
            client_cert: Some(ClientCertFilter { tell: ClientCert::Append, by: None }),
        };
        assert_eq!(serde_saphyr::from_str::<Forwarded>(text).unwrap(), expected);
        assert_eq!(serde_saphyr::from_str::<Forwarded>("{}").unwrap(), Forwarded::default());
    }
}

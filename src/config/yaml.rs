//! How the model's values are written where that is not their own form.

use std::{
    fmt,
    marker::PhantomData,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::{BackendRef, Endpoint, Filter, Host, Roots};

/// PEM text.
pub(super) fn pem<'de, D: Deserializer<'de>, T: From<Vec<u8>>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer).map(|text| text.into_bytes().into())
}

pub(super) fn roots<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Roots, D::Error> {
    pem::<D, Vec<u8>>(deserializer).map(|text| Roots::Pem(text.into()))
}

pub(super) fn crls<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<[u8]>>, D::Error> {
    pem::<D, Vec<u8>>(deserializer).map(|text| Some(text.into()))
}

/// Header fields, written as a mapping; their order is kept.
pub(super) fn fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(HeaderName, HeaderValue)>, D::Error> {
    struct Fields;
    impl<'de> Visitor<'de> for Fields {
        type Value = Vec<(HeaderName, HeaderValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a mapping of header field names to values")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = Vec::new();
            while let Some((name, value)) = map.next_entry::<String, String>()? {
                let value = HeaderValue::try_from(&value)
                    .map_err(|_| A::Error::custom(format_args!("`{value}` is not a header field value")))?;
                fields.push((field_name(&name)?, value));
            }
            Ok(fields)
        }
    }
    deserializer.deserialize_map(Fields)
}

/// Names of header fields.
pub(super) fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HeaderName>, D::Error> {
    Vec::<String>::deserialize(deserializer)?.iter().map(|name| field_name(name)).collect()
}

/// The name of a header field.
pub(super) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<HeaderName>, D::Error> {
    String::deserialize(deserializer).and_then(|name| field_name(&name)).map(Some)
}

/// Networks; an address alone is one of its own.
pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    struct Network(IpNet);
    impl<'de> Deserialize<'de> for Network {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            network.map(Self).map_err(|_| {
                D::Error::custom(format_args!("`{text}` is not a network: write it as `10.0.0.0/8` or `2001:db8::/32`"))
            })
        }
    }
    Vec::<Network>::deserialize(deserializer).map(|networks| networks.into_iter().map(|network| network.0).collect())
}

fn field_name<E: Error>(name: &str) -> Result<HeaderName, E> {
    name.parse().map_err(|_| E::custom(format_args!("`{name}` is not a header field name")))
}

/// In a certificate a wildcard stands for one label (RFC 9525, section 6.3).
pub(super) fn certificate_hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Host>, D::Error> {
    let mut hosts = Vec::<Host>::deserialize(deserializer)?;
    for host in &mut hosts {
        if let Host::Wildcard(suffix) = host {
            *host = Host::OneLabelWildcard(std::mem::take(suffix));
        }
    }
    Ok(hosts)
}

impl<'de> Deserialize<'de> for BackendRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            name: String,
            #[serde(default = "one")]
            weight: u32,
            #[serde(default)]
            filters: Vec<Filter>,
            #[serde(default)]
            cohort: Option<String>,
        }
        deserializer.deserialize_any(Short {
            expecting: "a backend's name, or a mapping with `name` and `weight`",
            from_text: |text| Ok(Self::new(text)),
            from_fields: |Fields { name, weight, filters, cohort }| Self { weight, filters, cohort, ..Self::new(name) },
            fields: PhantomData,
        })
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            #[serde(deserialize_with = "address")]
            address: SocketAddr,
            #[serde(default = "one")]
            weight: u32,
        }
        deserializer.deserialize_any(Short {
            expecting: "an address, or a mapping with `address` and `weight`",
            from_text: |text| read_address(text).map(Self::from),
            from_fields: |Fields { address, weight }| Self { address, weight },
            fields: PhantomData,
        })
    }
}

/// A value that is written as one text, or else field by field.
struct Short<T, M> {
    expecting: &'static str,
    from_text: fn(&str) -> Result<T, String>,
    from_fields: fn(M) -> T,
    fields: PhantomData<M>,
}

impl<'de, T, M: Deserialize<'de>> Visitor<'de> for Short<T, M> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.from_text)(text).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        M::deserialize(MapAccessDeserializer::new(map)).map(self.from_fields)
    }
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    read_address(&text).map_err(Error::custom)
}

fn read_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an address: write an IP address and a port, as in `10.0.0.1:8080` or `[::1]:8080`")
    })
}

fn one() -> u32 {
    1
}

//! Kubernetes objects by kind, namespace and name.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use serde::{Deserialize, de::DeserializeOwned};

use super::{
    gateway_api::{
        BackendTlsPolicy, ConfigMap, Gateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet, Namespace,
        ReferenceGrant, TcpRoute, TlsRoute, XListenerSet,
    },
    ingress::{Ingress, IngressClass},
    secret::Secret,
    service::{EndpointSlice, Service},
    time,
};
use crate::source::{
    Document, Report,
    decode::{Nulls, decode},
    error::{Fault, Place, Problem, Warning},
    tree::{Node, Value},
};

/// Makes the tables of all kinds. A new kind is a line here.
macro_rules! tables {
    ($($table:ident: $kind:ty,)*) => {
        /// Every object that was read, by kind, namespace and name: the order of files and documents is lost here.
        #[derive(Default)]
        pub(crate) struct Objects {
            $(pub(super) $table: Table<$kind>,)*
        }

        impl Objects {
            /// Reads an object of a kind that is used here; gives back one of another.
            fn read(&mut self, version: &str, kind: &str, origin: Origin, report: &mut Report) -> Option<Origin> {
                $(if <$kind>::KIND == kind && <$kind>::API_VERSIONS.contains(&version) {
                    self.$table.read(origin, report);
                    return None;
                })*
                Some(origin)
            }
        }

        /// What the tables need to know of a kind, by its name: the version to write, and whether it has namespaces.
        fn known(kind: &str) -> Option<(&'static str, bool)> {
            $(if <$kind>::KIND == kind {
                return Some((<$kind>::API_VERSIONS.first().copied().unwrap_or_default(), <$kind>::NAMESPACED));
            })*
            None
        }
    };
}

tables! {
    ingresses: Ingress,
    classes: IngressClass,
    services: Service,
    slices: EndpointSlice,
    secrets: Secret,
    config_maps: ConfigMap,
    namespaces: Namespace,
    gateway_classes: GatewayClass,
    gateways: Gateway,
    listener_sets: ListenerSet,
    experimental_listener_sets: XListenerSet,
    reference_grants: ReferenceGrant,
    http_routes: HttpRoute,
    grpc_routes: GrpcRoute,
    backend_tls_policies: BackendTlsPolicy,
    tls_routes: TlsRoute,
    tcp_routes: TcpRoute,
}

/// The objects of one kind: by namespace, then by name.
pub(super) struct Table<T>(BTreeMap<String, BTreeMap<String, Object<T>>>);

/// One object.
pub(super) struct Object<T> {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) metadata: Metadata,
    /// When it was made, in seconds since 1970.
    pub(super) created: Option<i64>,
    pub(super) value: T,
    origin: Origin,
}

/// What a kind of objects has to say of itself.
pub(super) trait Kind: DeserializeOwned {
    /// The versions it is read in; first the one to write.
    const API_VERSIONS: &'static [&'static str];
    const KIND: &'static str;
    /// Whether its objects belong to namespaces.
    const NAMESPACED: bool = true;

    /// Names what the API server would refuse, by field, beyond wrong types and missing fields.
    fn check(&self, found: &mut dyn FnMut(String, Fault));
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata {
    name: String,
    namespace: String,
    creation_timestamp: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// Where an object was read from.
struct Origin {
    file: Arc<str>,
    node: Node,
    /// The path of the object in its document: `items[3].` in a list.
    prefix: String,
}

impl Objects {
    /// Adds the object of a document, or those of its list.
    pub(super) fn add(&mut self, document: Document, report: &mut Report) {
        let origin = Origin { file: document.file, node: document.node, prefix: String::new() };
        self.add_one(origin, None, report);
    }

    fn add_one(&mut self, origin: Origin, list: Option<(&str, &str)>, report: &mut Report) {
        let own = |field| origin.node.get(field).and_then(Node::text).map(str::to_owned);
        let version = own("apiVersion").or_else(|| list.map(|(version, _)| version.to_owned()));
        let kind = own("kind").or_else(|| list.map(|(_, kind)| kind.to_owned()));
        let (Some(version), Some(kind)) = (&version, &kind) else {
            let field = if version.is_none() { "apiVersion" } else { "kind" };
            let fault = match origin.node.get(field).map(|node| &node.value) {
                None | Some(Value::Null) => Fault::Missing,
                Some(_) => Fault::Invalid("must be a text".to_owned()),
            };
            report.problems.push(origin.problem(None, field, fault));
            return;
        };
        let Some(origin) = self.read(version, kind, origin, report) else {
            return;
        };
        if kind.ends_with("List") && list.is_none() {
            self.add_list(origin, version, kind, report);
            return;
        }
        let message = match known(kind) {
            Some((right, _)) => format!("{version} {kind} is left out: write `{right}`"),
            None => format!("{version} {kind} is none of the kinds used here, and is left out"),
        };
        let label = origin.label(kind);
        report.warnings.push(origin.warning(Some(label), "apiVersion", message));
    }

    /// `kubectl get` wraps objects in a `List`; the API's own lists, such as `IngressList`, leave version and kind out of their
    /// items.
    fn add_list(&mut self, mut origin: Origin, version: &str, kind: &str, report: &mut Report) {
        let item = kind.strip_suffix("List").filter(|item| !item.is_empty()).map(|item| (version, item));
        let items = origin.node.get_mut("items").map(|items| std::mem::replace(&mut items.value, Value::Null));
        match items {
            None | Some(Value::Null) => {}
            Some(Value::Sequence(nodes)) => {
                for (index, node) in nodes.into_iter().enumerate() {
                    let file = origin.file.clone();
                    self.add_one(Origin { file, node, prefix: format!("items[{index}].") }, item, report);
                }
            }
            Some(_) => {
                let fault = Fault::Invalid("must be a list of objects".to_owned());
                report.problems.push(origin.problem(None, "items", fault));
            }
        }
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Table<T> {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&Object<T>> {
        self.0.get(namespace)?.get(name)
    }

    /// All of them, by namespace and name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Object<T>> {
        self.0.values().flat_map(BTreeMap::values)
    }

    /// All of them, the oldest first. One of unknown age counts as younger than any; the rest is settled by namespace and
    /// name.
    pub(super) fn by_age(&self) -> Vec<&Object<T>> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_by_key(|object| object.created.unwrap_or(i64::MAX));
        all
    }
}

impl<T: Kind> Table<T> {
    fn read(&mut self, origin: Origin, report: &mut Report) {
        let Some(object) = Object::<T>::read(origin, report) else {
            return;
        };
        match self.0.entry(object.namespace.clone()).or_default().entry(object.name.clone()) {
            btree_map::Entry::Vacant(place) => {
                place.insert(object);
            }
            btree_map::Entry::Occupied(mut other) => {
                // The one further up is the first, in whichever order they came.
                let (mut first, mut second) = (other.get().place(""), object.place(""));
                if second < first {
                    (first, second) = (second, first);
                    other.insert(object);
                }
                let (object, fault) = (Some(other.get().label()), Fault::Duplicate { first });
                report.problems.push(Problem { place: second, object, field: String::new(), fault });
            }
        }
    }
}

impl<T: Kind> Object<T> {
    fn read(origin: Origin, report: &mut Report) -> Option<Self> {
        let label = Some(origin.label(T::KIND));
        let mut found = Vec::new();
        let metadata = match origin.node.get("metadata").filter(|node| !matches!(node.value, Value::Null)) {
            None => {
                found.push(origin.problem(label.clone(), "metadata.name", Fault::Missing));
                Metadata::default()
            }
            Some(node) => decode::<Metadata>(node, Nulls::Absent).unwrap_or_else(|error| {
                let field = format!("metadata.{}", error.field());
                found.push(origin.problem_at(error.position, label.clone(), &field, error.fault));
                Metadata::default()
            }),
        };
        if metadata.name.is_empty() && found.is_empty() {
            found.push(origin.problem(label.clone(), "metadata.name", Fault::Missing));
        }
        let created = metadata.creation_timestamp.as_deref().and_then(|text| {
            let seconds = time::parse(text);
            if seconds.is_none() {
                let why = format!("`{text}` is not a time: write it as in `2026-01-31T12:00:00Z`");
                found.push(origin.problem(label.clone(), "metadata.creationTimestamp", Fault::Invalid(why)));
            }
            seconds
        });
        let value = match decode::<T>(&origin.node, Nulls::Absent) {
            Ok(value) => {
                value.check(&mut |field, fault| found.push(origin.problem(label.clone(), &field, fault)));
                Some(value)
            }
            Err(error) => {
                let field = error.field();
                found.push(origin.problem_at(error.position, label.clone(), &field, error.fault));
                None
            }
        };
        if !found.is_empty() {
            report.problems.append(&mut found);
            return None;
        }
        let namespace = match (T::NAMESPACED, &*metadata.namespace) {
            (false, _) => String::new(),
            (true, "") => "default".to_owned(),
            (true, namespace) => namespace.to_owned(),
        };
        Some(Self { namespace, name: metadata.name.clone(), metadata, created, value: value?, origin })
    }

    /// As in `Ingress default/shop`.
    pub(super) fn label(&self) -> String {
        if T::NAMESPACED {
            format!("{} {}/{}", T::KIND, self.namespace, self.name)
        } else {
            format!("{} {}", T::KIND, self.name)
        }
    }

    /// Where a field stands.
    pub(super) fn place(&self, field: &str) -> Place {
        self.origin.place(field)
    }

    pub(super) fn problem(&self, field: &str, fault: Fault) -> Problem {
        self.origin.problem(Some(self.label()), field, fault)
    }

    pub(super) fn warning(&self, field: &str, message: String) -> Warning {
        self.origin.warning(Some(self.label()), field, message)
    }
}

impl Origin {
    fn place(&self, field: &str) -> Place {
        let (line, column) = self.node.locate(field);
        Place { file: self.file.clone(), line, column }
    }

    fn problem(&self, object: Option<String>, field: &str, fault: Fault) -> Problem {
        self.problem_at(None, object, field, fault)
    }

    /// A missing field has no line of its own: that of what should hold it is taken.
    fn problem_at(&self, at: Option<(u32, u32)>, object: Option<String>, field: &str, fault: Fault) -> Problem {
        let mut place = self.place(field);
        if let Some((line, column)) = at {
            (place.line, place.column) = (line, column);
        }
        Problem { place, object, field: format!("{}{field}", self.prefix), fault }
    }

    fn warning(&self, object: Option<String>, field: &str, message: String) -> Warning {
        Warning { place: self.place(field), object, field: format!("{}{field}", self.prefix), message }
    }

    /// The object's name as far as it is known before the object is.
    fn label(&self, kind: &str) -> String {
        let named = self.node.get("metadata").and_then(|metadata| Some((metadata, metadata.get("name")?.text()?)));
        let Some((metadata, name)) = named else {
            return kind.to_owned();
        };
        let namespace = metadata.get("namespace").and_then(Node::text).filter(|namespace| !namespace.is_empty());
        match known(kind) {
            Some((_, false)) => format!("{kind} {name}"),
            _ => format!("{kind} {}/{name}", namespace.unwrap_or("default")),
        }
    }
}

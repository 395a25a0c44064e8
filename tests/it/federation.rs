//! SPIFFE federation in our own YAML: a listener that takes clients of several trust domains.

use std::{io, net::SocketAddr};

use rcgen::{CertificateParams, SanType};

use crate::support::{
    Echo, Ingress, RELOAD, eventually, free_port,
    ingress::folder,
    pki::{Leaf, Pki},
};

const ADMIN: &str = "spiffe://mesh.example/admin";
const TILL: &str = "spiffe://partner.example/till";

fn client(pki: &Pki, id: &str) -> Leaf {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    pki.sign(&params)
}

#[tokio::test]
async fn a_partners_authority_admits_the_partners_clients_and_none_of_ours() {
    let (ours, theirs, renewed) = (Pki::new(), Pki::new(), Pki::new());
    let (app, port) = (Echo::start("app").await, free_port());
    let gate = ours.leaf(&["a.example"]);
    let text = format!(
        "listeners:
- name: mesh
  port: {port}
  protocol:
    https:
      certificates: [{{cert: gate.pem, key: gate.key}}]
      client:
        trust: [{{domain: mesh.example, ca: ours.pem}}, {{domain: partner.example, ca: theirs.pem}}]
routes:
- name: admin
  listeners: [mesh]
  rules:
  - filters: [{{allow: {{peers: [{{spiffe_id: '{ADMIN}'}}, {{trust_domain: partner.example}}]}}}}]
    backends: [app]
upstreams:
- {{name: app, endpoints: {{static: ['{}']}}}}
",
        app.addr
    );
    let dir = folder(&[
        ("gate.yaml", &text),
        ("gate.pem", &gate.certificate),
        ("gate.key", &gate.key),
        ("ours.pem", &ours.ca()),
        ("theirs.pem", &theirs.ca()),
    ]);
    let manifest = dir.path().join("gate.yaml");
    let ingress = Ingress::start_with(dir, &[&manifest]).await;
    let asked = async |client: &Leaf| -> io::Result<u16> {
        let mut conn = ours.connect_as(Some(client), SocketAddr::from(([127, 0, 0, 1], port)), "a.example").await?;
        Ok(conn.get("a.example", "/").await?.status)
    };
    assert_eq!(asked(&client(&ours, ADMIN)).await.unwrap(), 200);
    assert_eq!(asked(&client(&theirs, TILL)).await.unwrap(), 200);
    let from = ingress.stderr().len();
    let seen = app.seen();
    let error = asked(&client(&theirs, ADMIN)).await.unwrap_err();
    assert!(error.to_string().contains("alert"), "{error}");
    assert_eq!(app.seen(), seen);
    ingress.logged(from, &[ADMIN]).await;

    // The partner's next bundle, in the file that is named.
    ingress.replace("theirs.pem", &renewed.ca());
    eventually("the new authority admits", RELOAD, || async {
        asked(&client(&renewed, TILL)).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    asked(&client(&theirs, TILL)).await.unwrap_err();
    assert_eq!(asked(&client(&ours, ADMIN)).await.unwrap(), 200);
}

//! Upstreams with certificates that are not in order: none is spoken to (B58).
//!
//! Each chain is made for the test and shown by a server on loopback. A plain rustls client with the same roots is asked
//! first: what it refuses, the gateway refuses; and it refuses all of these but the ones that are named below.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use carboy_core::host::Host;
use carboy_core::upstream::{Transport, Upstream, Upstreams};
use carboy_egress::GatewayLimits;
use http::{Response, StatusCode};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use support::{Bench, HOST, Kind, Origin, client_config, full, recording, route};
use time::{Duration, OffsetDateTime};
use tokio::net::{TcpListener, TcpStream};

/// What rustls takes although RFC 5280 (4.2.1.3) does not: it does not look at the key usage of a CA. A private CA that the
/// operator named may be so; no public one is.
const TAKEN_BY_RUSTLS: &[&str] = &["under a CA that may not sign certificates"];

/// A chain, leaf first, and the leaf's key.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// A CA of the test.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
    pem: String,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    dated(&mut params, -10, 10);
    params
}

fn dated(params: &mut CertificateParams, from_days: i64, to_days: i64) {
    params.not_before = OffsetDateTime::now_utc() + Duration::days(from_days);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(to_days);
}

impl Ca {
    fn root(params: CertificateParams) -> Ca {
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        Ca { der: made.der().clone(), pem: made.pem(), params, key }
    }

    fn below(&self, params: CertificateParams) -> Ca {
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        Ca { der: made.der().clone(), pem: made.pem(), params, key }
    }

    /// A leaf, and the CAs between it and the root.
    fn leaf(&self, params: CertificateParams, between: &[&Ca]) -> Shown {
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        let chain = std::iter::once(made.der().clone()).chain(between.iter().map(|ca| ca.der.clone())).collect();
        Shown { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    }
}

fn leaf_params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, HOST);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    dated(&mut params, -1, 5);
    params
}

fn changed(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = leaf_params(names);
    change(&mut params);
    params
}

/// Leaves that are wrong themselves.
fn of_the_leaf(root: &Ca) -> Vec<(&'static str, Shown)> {
    let direct = |params| root.leaf(params, &[]);
    let san = |san: Vec<SanType>| changed(&[], |p| p.subject_alt_names = san);
    let own = || {
        let (params, key) = (leaf_params(&[HOST]), KeyPair::generate().unwrap());
        let chain = vec![params.self_signed(&key).unwrap().der().clone()];
        Shown { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() }
    };
    let broken = |at: fn(usize) -> usize| {
        let mut shown = direct(leaf_params(&[HOST]));
        let mut der = shown.chain[0].to_vec();
        let at = at(der.len());
        der[at] ^= 1;
        shown.chain[0] = der.into();
        shown
    };
    let another_key = || {
        let mut shown = direct(leaf_params(&[HOST]));
        shown.key = PrivatePkcs8KeyDer::from(KeyPair::generate().unwrap().serialize_der()).into();
        shown
    };
    vec![
        ("expired", direct(changed(&[HOST], |p| dated(p, -9, -1)))),
        (
            "expired a minute ago",
            direct(changed(&[HOST], |p| p.not_after = OffsetDateTime::now_utc() - Duration::minutes(1))),
        ),
        ("not valid yet", direct(changed(&[HOST], |p| dated(p, 1, 5)))),
        ("dates in the wrong order", direct(changed(&[HOST], |p| dated(p, 5, -5)))),
        ("for another host", direct(leaf_params(&["other.example"]))),
        ("for a host below", direct(leaf_params(&["www.api.example"]))),
        ("for the host above", direct(leaf_params(&["example"]))),
        ("for a name that only begins alike", direct(leaf_params(&["api.example.evil.test"]))),
        ("for a name that only ends alike", direct(leaf_params(&["xapi.example"]))),
        ("by a wildcard below", direct(leaf_params(&["*.api.example"]))),
        ("by a wildcard in the middle", direct(leaf_params(&["api.*"]))),
        ("by a wildcard in a part", direct(leaf_params(&["a*.example"]))),
        ("by a wildcard alone", direct(leaf_params(&["*"]))),
        ("by its common name alone", direct(san(vec![]))),
        ("for its address alone", direct(san(vec![SanType::IpAddress("127.0.0.1".parse().unwrap())]))),
        ("by an e-mail address", direct(san(vec![SanType::Rfc822Name("x@api.example".try_into().unwrap())]))),
        ("by a URI", direct(san(vec![SanType::URI("https://api.example".try_into().unwrap())]))),
        (
            "for clients",
            direct(changed(&[HOST], |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth])),
        ),
        (
            "for signing code",
            direct(changed(&[HOST], |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning])),
        ),
        ("a CA itself", direct(changed(&[HOST], |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)))),
        (
            "with a critical extension that nobody knows",
            direct(changed(&[HOST], |p| {
                let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
                unknown.set_criticality(true);
                p.custom_extensions.push(unknown);
            })),
        ),
        ("signed by itself", own()),
        ("with a changed signature", broken(|length| length - 1)),
        ("with a changed name", broken(|length| length / 2)),
        ("of which the server has not the key", another_key()),
    ]
}

/// Leaves that are in order under CAs that are not, or are nobody's.
fn of_the_chain(root: &Ca) -> Vec<(&'static str, Shown)> {
    let good = || leaf_params(&[HOST]);
    let stranger = Ca::root(ca_params("Stranger"));
    let namesake = Ca::root(ca_params("Root"));
    let below = |change: fn(&mut CertificateParams)| {
        let mut params = ca_params("Between");
        change(&mut params);
        root.below(params)
    };
    let ordinary = below(|_| ());
    let through = |ca: &Ca| ca.leaf(good(), &[ca]);
    let no_ca = below(|p| p.is_ca = IsCa::ExplicitNoCa);
    let plain = below(|p| p.is_ca = IsCa::NoCa);
    let no_sign = below(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let expired = below(|p| dated(p, -9, -1));
    let early = below(|p| dated(p, 1, 9));
    let constrained = |permitted: &[&str], excluded: &[&str]| {
        let names = |list: &[&str]| list.iter().map(|name| GeneralSubtree::DnsName((*name).to_owned())).collect();
        let mut params = ca_params("Constrained");
        params.name_constraints =
            Some(NameConstraints { permitted_subtrees: names(permitted), excluded_subtrees: names(excluded) });
        root.below(params)
    };
    let elsewhere = constrained(&["other.test"], &[]);
    let excluded = constrained(&[], &["example"]);
    let last = below(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let too_deep = last.below(ca_params("Too deep"));
    let for_clients = below(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    let a_leaf = root.below(changed(&[HOST], |_| ()));
    vec![
        ("under a CA that nobody knows", stranger.leaf(good(), &[])),
        ("under a CA that nobody knows, which is shown too", stranger.leaf(good(), &[&stranger])),
        ("under another CA of the same name", namesake.leaf(good(), &[])),
        ("without the CA between", ordinary.leaf(good(), &[])),
        ("with the wrong CA between", ordinary.leaf(good(), &[&expired])),
        ("under what says that it is no CA", through(&no_ca)),
        ("under what does not say that it is a CA", through(&plain)),
        ("under a leaf", a_leaf.leaf(good(), &[&a_leaf])),
        ("under a CA that may not sign certificates", through(&no_sign)),
        ("under an expired CA", through(&expired)),
        ("under a CA of tomorrow", through(&early)),
        ("under a CA for other names", through(&elsewhere)),
        ("under a CA for all but these names", through(&excluded)),
        ("deeper than the CA's path allows", too_deep.leaf(good(), &[&too_deep, &last])),
        ("under a CA for clients", through(&for_clients)),
    ]
}

/// What only OpenSSL still makes: weak hashes and keys, certificates of the first version.
fn of_the_past(root: &Ca, dir: &Path) -> Vec<(&'static str, Shown)> {
    std::fs::write(dir.join("ca.pem"), &root.pem).unwrap();
    std::fs::write(dir.join("ca.key"), root.key.serialize_pem()).unwrap();
    std::fs::write(dir.join("ext"), format!("subjectAltName=DNS:{HOST}\nextendedKeyUsage=serverAuth\n")).unwrap();
    let made = |new_key: &[&str], sign: &[&str]| {
        let run = |arguments: &[&str]| {
            let output = Command::new("openssl").args(arguments).current_dir(dir).output();
            let output = output.expect("openssl is there; on Debian: apt-get install openssl");
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let subject = format!("/CN={HOST}");
        run(&[&["req", "-new", "-nodes", "-keyout", "key", "-out", "csr", "-subj", &subject], new_key].concat());
        let set_serial = ["-set_serial", "7", "-days", "5"];
        let x509 = ["x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", "crt"];
        run(&[&x509[..], &set_serial, sign].concat());
        let pem = |name: &str| std::fs::read(dir.join(name)).unwrap();
        Shown {
            chain: vec![CertificateDer::from_pem_slice(&pem("crt")).unwrap()],
            key: PrivateKeyDer::from_pem_slice(&pem("key")).unwrap(),
        }
    };
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    vec![
        ("signed with SHA-1", made(&ec, &["-sha1", "-extfile", "ext"])),
        ("of the first version", made(&ec, &["-sha256"])),
        ("with a key of RSA-1024", made(&["-newkey", "rsa:1024"], &["-sha256", "-extfile", "ext"])),
    ]
}

/// A server that shows the chain; `None` where even the server's own library takes no such pair.
async fn serve(shown: Shown) -> Option<std::net::SocketAddr> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = provider.key_provider.load_private_key(shown.key).ok()?;
    let certified = Arc::new(rustls::sign::CertifiedKey::new(shown.chain, key));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(tcp).await else { return };
                let service = hyper::service::service_fn(async |_| {
                    Ok::<_, std::convert::Infallible>(Response::new(full("reached")))
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    Some(address)
}

/// A plain client of rustls with the same root.
async fn rustls_takes(address: std::net::SocketAddr, root_pem: &str) -> bool {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(root_pem, &[])));
    let tcp = TcpStream::connect(address).await.unwrap();
    connector.connect(ServerName::try_from(HOST).unwrap(), tcp).await.is_ok()
}

/// What a client behind the gateway gets of the server there.
async fn through_the_gateway(address: std::net::SocketAddr, root_pem: &str) -> (StatusCode, String) {
    let mut upstreams = Upstreams::default();
    let extra_ca_pem = Some(root_pem.to_owned());
    upstreams.insert(Host::parse(HOST).unwrap(), None, Upstream { address, transport: Transport::Tls, extra_ca_pem });
    let origin = Arc::new(Origin::default());
    let answer = recording(origin.clone(), |_| Response::new(full("another")));
    let bench =
        Bench::reaching(upstreams, Kind::Plain, vec![route(HOST)], origin, answer, GatewayLimits::default()).await;
    let got = bench.client(&["http/1.1"]).await.get("/").await;
    let said = if got.status == StatusCode::OK { got.text() } else { got.reason() };
    (got.status, said.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn b58_a_certificate_that_is_not_in_order_is_never_spoken_to() {
    let root = Ca::root(ca_params("Root"));
    let dir = tempfile::tempdir().unwrap();
    // The way itself works, so that a refusal below is the certificate's.
    let between = root.below(ca_params("Between"));
    let good = serve(between.leaf(leaf_params(&[HOST]), &[&between])).await.unwrap();
    assert!(rustls_takes(good, &root.pem).await);
    assert_eq!(through_the_gateway(good, &root.pem).await, (StatusCode::OK, "reached".into()));

    let mut cases = of_the_leaf(&root);
    cases.extend(of_the_chain(&root));
    cases.extend(of_the_past(&root, dir.path()));
    assert!(cases.len() >= 30, "{}", cases.len());
    let mut shown = 0;
    for (what, chain) in cases {
        let Some(address) = serve(chain).await else { continue };
        shown += 1;
        let taken = rustls_takes(address, &root.pem).await;
        assert_eq!(taken, TAKEN_BY_RUSTLS.contains(&what), "{what}");
        if taken {
            continue;
        }
        let got = through_the_gateway(address, &root.pem).await;
        assert_eq!(got, (StatusCode::BAD_GATEWAY, "upstream_certificate".into()), "{what}");
    }
    assert!(shown >= 30, "{shown}");
}

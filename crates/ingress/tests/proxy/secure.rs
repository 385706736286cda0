//! TLS by name, certificates that change under open connections, and HTTP/2 at both ends.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use gantry_ingress::Certificates;
use gantry_model::spec::{HostPattern, IngressTls, SecretRef, UpstreamProtocol};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::rig::{Rig, address, replicas, rule, service};

/// A certificate for a host: its PEM, and what a client trusts.
fn certificate(host: &str) -> (String, String, rcgen::Certificate) {
    let made = rcgen::generate_simple_self_signed([host.to_string()]).expect("a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem(), made.cert)
}

async fn tls(to: SocketAddr, name: &str, trusted: &[&rcgen::Certificate]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.der().clone()).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(to).await?;
    let name = ServerName::try_from(name.to_string()).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A body of at most one piece, with trailers after it.
struct Piece(Option<Bytes>, Option<HeaderMap>);

impl Body for Piece {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.0.take().map(Frame::data);
        Poll::Ready(data.or_else(|| self.1.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none() && self.1.is_none()
    }
}

async fn http2<T>(stream: T) -> SendRequest<Piece>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let made = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = made.expect("a handshake");
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &mut SendRequest<Piece>, uri: &str, body: &str) -> (Response<()>, String, Option<HeaderMap>) {
    let body = (!body.is_empty()).then(|| Bytes::from(body.to_string()));
    let request = Request::post(uri)
        .header("te", "trailers")
        .body(Piece(body, None))
        .expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    let (parts, mut body) = response.into_parts();
    let (text, trailers) = read(&mut body).await;
    (Response::from_parts(parts, ()), text, trailers)
}

async fn read(body: &mut Incoming) -> (String, Option<HeaderMap>) {
    let (mut text, mut trailers) = (String::new(), None);
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
        match frame.expect("a frame").into_data() {
            Ok(data) => text.push_str(&String::from_utf8_lossy(&data)),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    (text, trailers)
}

#[test]
fn each_host_shows_its_own_certificate_and_a_new_one_without_a_break() {
    let (port, _replicas) = replicas(1);
    let rig = Rig::new(|_| {});
    let tls_rule = |host: &str| {
        let mut rule = rule(host, "/", port);
        let secret = SecretRef {
            source: "site".parse().expect("a name"),
            id: None,
        };
        rule.tls = Some(IngressTls { secret, key: None });
        rule
    };
    let (a, b, renewed) = (
        certificate("a.example.com"),
        certificate("b.example.com"),
        certificate("a.example.com"),
    );
    let services = [service(
        vec![tls_rule("a.example.com"), tls_rule("b.example.com")],
        &[1],
    )];
    let certificates = |first: &(String, String, rcgen::Certificate)| {
        let mut certificates = Certificates::default();
        for (host, (chain, key, _)) in [("a.example.com", first), ("b.example.com", &b)] {
            let host: HostPattern = host.parse().expect("a host");
            certificates
                .add(&host, chain.as_bytes(), key.as_bytes())
                .expect("usable");
        }
        certificates
    };
    rig.apply_with(&services, certificates(&a));
    let to = rig.https();
    rig.runtime.block_on(async {
        let mut first = http2(tls(to, "a.example.com", &[&a.2]).await.expect("its own certificate")).await;
        let (answer, text, _) = ask(&mut first, "https://a.example.com/", "x").await;
        assert_eq!((answer.status().as_u16(), text.as_str()), (200, "replica 1"));
        let (misdirected, ..) = ask(&mut first, "https://b.example.com/", "").await;
        assert_eq!(
            misdirected.status().as_u16(),
            421,
            "that host has a certificate of its own"
        );
        assert!(
            tls(to, "c.example.com", &[&a.2, &b.2]).await.is_err(),
            "nobody else's is shown"
        );
        rig.ingress
            .apply(gantry_ingress::Table::of(&services), certificates(&renewed))
            .await
            .expect("the workers are there");
        assert!(tls(to, "a.example.com", &[&a.2]).await.is_err(), "the old one is gone");
        let mut second = http2(tls(to, "a.example.com", &[&renewed.2]).await.expect("the new one")).await;
        for sender in [&mut first, &mut second] {
            let (answer, ..) = ask(sender, "https://a.example.com/", "x").await;
            assert_eq!(answer.status().as_u16(), 200);
        }
    });
}

#[test]
fn what_is_no_certificate_is_told() {
    let (chain, key, _) = certificate("a");
    let (other_chain, ..) = certificate("a");
    let host = HostPattern::Any;
    let mut certificates = Certificates::default();
    for (chain, key) in [("", key.as_str()), ("nonsense", "nonsense"), (chain.as_str(), "")] {
        assert!(
            certificates.add(&host, chain.as_bytes(), key.as_bytes()).is_err(),
            "{chain:?}"
        );
    }
    assert!(
        certificates.add(&host, other_chain.as_bytes(), key.as_bytes()).is_err(),
        "they do not belong together"
    );
    let both = format!("{chain}{key}");
    assert!(certificates.add(&host, both.as_bytes(), both.as_bytes()).is_ok());
}

#[test]
fn http2_without_tls_is_understood() {
    let (port, replicas) = replicas(1);
    let rig = Rig::new(|_| {});
    rig.apply(&[service(vec![rule("*", "/", port)], &[1])]);
    let to = rig.http();
    rig.runtime.block_on(async {
        let mut sender = http2(TcpStream::connect(to).await.expect("it listens")).await;
        let (answer, text, _) = ask(&mut sender, "http://a.example.com/x", "abc").await;
        assert_eq!((answer.status().as_u16(), text.as_str()), (200, "replica 1"));
    });
    let seen = replicas[0].heads().remove(0);
    assert!(
        seen.starts_with("POST /x HTTP/1.1\r\n") && seen.ends_with("abc"),
        "{seen}"
    );
    assert_eq!(super::rig::header(&seen, "host").as_deref(), Some("a.example.com"));
}

#[test]
fn grpc_keeps_its_trailers() {
    let rig = Rig::new(|_| {});
    let listener = rig
        .runtime
        .block_on(tokio::net::TcpListener::bind((address(9), 0)))
        .expect("a port");
    let port = listener.local_addr().expect("bound").port();
    rig.runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = hyper::service::service_fn(|mut request: Request<Incoming>| async move {
                let (sent, _) = read(request.body_mut()).await;
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().expect("a value"));
                let te = request.headers().get("te").cloned();
                let text = format!("{} {sent} {te:?} {:?}", request.uri(), request.version());
                Ok::<_, Infallible>(Response::new(Piece(Some(text.into()), Some(trailers))))
            });
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { serving.serve_connection(TokioIo::new(stream), answer).await });
        }
    });
    let mut grpc = rule("*", "/", port);
    grpc.protocol = UpstreamProtocol::H2c;
    rig.apply(&[service(vec![grpc], &[9])]);
    let to = rig.http();
    rig.runtime.block_on(async {
        let mut sender = http2(TcpStream::connect(to).await.expect("it listens")).await;
        for _ in 0..3 {
            let (answer, text, trailers) = ask(&mut sender, "http://a.example.com/pkg.Service/Call", "ping").await;
            assert_eq!(answer.status().as_u16(), 200);
            assert_eq!(
                text,
                "http://a.example.com/pkg.Service/Call ping Some(\"trailers\") HTTP/2.0"
            );
            let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
            assert_eq!(status.map(|status| status.as_bytes()), Some(&b"0"[..]));
        }
    });
}

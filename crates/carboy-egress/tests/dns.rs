//! DNS as a bottle uses it, over datagrams and over TCP.
#![allow(clippy::unwrap_used)]

mod support;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use carboy_core::audit::EventType;
use carboy_core::ports::{DatagramPort, Later};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use support::{Bench, HOST, Kind, detail, route};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

struct Port(UdpSocket);

impl DatagramPort for Port {
    fn receive<'a>(&'a self, buffer: &'a mut [u8]) -> Later<'a, io::Result<(usize, SocketAddr, IpAddr)>> {
        Box::pin(async move {
            let (length, peer) = self.0.recv_from(buffer).await?;
            Ok((length, peer, self.0.local_addr()?.ip()))
        })
    }

    fn send<'a>(&'a self, bytes: &'a [u8], peer: SocketAddr, _local: IpAddr) -> Later<'a, io::Result<()>> {
        Box::pin(async move { self.0.send_to(bytes, peer).await.map(drop) })
    }
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn name_server(bench: &Bench) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let gateway = bench.gateway.clone();
    tokio::spawn(async move { gateway.serve_dns_udp(Arc::new(Port(socket))).await });
    address
}

async fn ask(server: SocketAddr, query: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(query, server).await.unwrap();
    let mut buffer = [0; 1500];
    let length = tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

#[tokio::test]
async fn b28_only_allowed_names_resolve_and_each_refusal_is_counted() {
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    let server = name_server(&bench).await;
    let reply = ask(server, &query(HOST, RecordType::A)).await;
    assert_eq!(reply.answers[0].data.to_string(), "198.18.0.1");
    for _ in 0..3 {
        let reply = ask(server, &query("stolen.evil.example", RecordType::TXT)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    }
    let event = bench.log.wait(|event| event.event_type == EventType::Dns).await;
    assert_eq!(detail(&event, "name").unwrap(), "stolen.evil.example");
    assert_eq!(bench.log.refusals(), ["name_not_allowed"], "repeats are counted, not written");
    let stats = bench.gateway.stats();
    assert_eq!(stats.refusals.values().map(|refusal| refusal.count).sum::<u64>(), 3);
    bench.gateway.shutdown();
    let repeats = bench.log.wait(|event| event.action == "repeats").await;
    assert_eq!(detail(&repeats, "repeats").unwrap(), "2");
    let reply = ask(server, &query(HOST, RecordType::A)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "after the cut nothing resolves");
}

#[tokio::test]
async fn without_a_log_a_refused_name_gets_no_answer_at_all() {
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    let server = name_server(&bench).await;
    bench.log.broken.store(true, std::sync::atomic::Ordering::SeqCst);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query("evil.example", RecordType::A), server).await.unwrap();
    let mut buffer = [0; 512];
    assert!(tokio::time::timeout(Duration::from_millis(300), socket.recv(&mut buffer)).await.is_err());
}

#[tokio::test]
async fn b29_dns_over_tcp_is_answered_by_the_same_rules_whatever_server_was_asked() {
    let bench = Bench::start(Kind::Plain, vec![route(HOST)]).await;
    let mut tcp = TcpStream::connect(bench.listen("8.8.8.8", 53).await).await.unwrap();
    for (name, want) in [(HOST, ResponseCode::NoError), ("evil.example", ResponseCode::NXDomain)] {
        let query = query(name, RecordType::AAAA);
        tcp.write_u16(query.len() as u16).await.unwrap();
        tcp.write_all(&query).await.unwrap();
        let mut reply = vec![0; tcp.read_u16().await.unwrap() as usize];
        tcp.read_exact(&mut reply).await.unwrap();
        assert_eq!(Message::from_vec(&reply).unwrap().metadata.response_code, want);
    }
    // A length beyond the bound is not waited for.
    tcp.write_u16(u16::MAX).await.unwrap();
    assert!(tcp.read_u8().await.is_err());
    bench.log.wait(|event| detail(event, "reason").as_deref() == Some("dns_query_refused")).await;
}

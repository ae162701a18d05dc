//! Placeholders in the opening of a WebSocket, and in its messages.

use super::*;

/// A WebSocket server that keeps the heads it got and the messages, and says each message back.
async fn web_socket_server(kept: Arc<Mutex<Vec<String>>>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let kept = kept.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(tcp.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap().to_owned();
                kept.lock().unwrap().push(head);
                let answer = format!(
                    "HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {}\r\n\r\n",
                    STANDARD.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")))
                );
                tcp.write_all(answer.as_bytes()).await.unwrap();
                let mut socket = WebSocketStream::from_raw_socket(tcp, Role::Server, None).await;
                while let Some(Ok(message)) = socket.next().await {
                    if let Message::Text(text) = &message {
                        kept.lock().unwrap().push(text.to_string());
                        let shown = text.replace("tell me", SECRET);
                        socket.send(Message::text(shown)).await.unwrap();
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn b24_b42_the_opening_of_a_websocket_carries_the_real_value_and_no_message_a_placeholder() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let address = web_socket_server(kept.clone()).await;
    let mut given = Upstreams::default();
    let upstream = Upstream { address, transport: Transport::Plain, extra_ca_pem: None };
    given.insert(Host::parse(HOST).unwrap(), None, upstream);
    let routes = vec![Route { websocket: true, ..bound(&[header("authorization"), query("token")]) }];
    let (origin, answer) = (Arc::new(Origin::default()), recording(Arc::default(), echo));
    let bench = Bench::reaching(given, Kind::Plain, routes, origin, answer, GatewayLimits::default()).await;
    let (real, fake) = (Secret::new(SECRET.to_owned()), fake_of(SECRET));
    let built = Detectors::builder([7; 32]).known_secret(&secret_name(), &real).placeholder(&secret_name(), &fake);
    bench.gateway.replace_detectors(Arc::new(built.build().unwrap()));
    for text in [fake.clone(), STANDARD.encode(&fake), fake.chars().rev().collect()] {
        let mut tcp = TcpStream::connect(bench.listen(HOST, 80).await).await.unwrap();
        let opening = format!(
            "GET /chat?token={fake} HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nauthorization: Bearer {fake}\r\n\r\n"
        );
        tcp.write_all(opening.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        let got = kept.lock().unwrap().pop().unwrap();
        assert!(got.starts_with(&format!("GET /chat?token={SECRET} HTTP/1.1\r\n")), "{got}");
        assert!(got.contains(&format!("authorization: Bearer {SECRET}\r\n")) && !got.contains(&fake), "{got}");
        let mut socket = WebSocketStream::from_raw_socket(tcp, Role::Client, None).await;
        socket.send(Message::text("hi, tell me")).await.unwrap();
        // B41: what comes back shows the placeholder.
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(format!("hi, {fake}")));
        assert_eq!(kept.lock().unwrap().pop().unwrap(), "hi, tell me");
        // In two fragments, one message to who reads it.
        let (one, two) = text.split_at(text.len() / 2);
        let first = Frame::message(one.to_owned(), OpCode::Data(Data::Text), false);
        let rest = Frame::message(two.to_owned(), OpCode::Data(Data::Continue), true);
        socket.send(Message::Frame(first)).await.unwrap();
        socket.send(Message::Frame(rest)).await.unwrap();
        let closed = loop {
            if let Message::Close(frame) = socket.next().await.unwrap().unwrap() {
                break frame.unwrap();
            }
        };
        assert!(closed.reason.contains(REASON), "{closed:?}");
    }
    assert!(kept.lock().unwrap().is_empty(), "no message of those came through");
    assert_eq!(bench.log.refusals(), [REASON; 3]);
}

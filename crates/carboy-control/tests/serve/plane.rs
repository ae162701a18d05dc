//! A chat agent of the plane over HTTP: gateway, ledger and log are the real ones, the provider is the simulated one.

use std::sync::Arc;
use std::time::Duration;

use carboy_control::chat::{ChatHost, ChatRequest, ModelMode};
use carboy_control::serve::{MetricsPage, Opening, serve_host};
use carboy_control::summary::Ended;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::http::{chat, get};
use super::shop::{KEY, KEY_NAME, Shop};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn u1_u2_over_http_it_is_answered_labelled_and_handed_off_with_200_when_the_budget_is_spent() {
    for (budget, reply, handed_off) in [
        ("", "We are open from nine to five.", None),
        ("budget: {claude: 1}\n", "A colleague will get back to you.", Some("budget_exhausted")),
    ] {
        let shop = Shop::open(budget).await;
        let host = ChatHost::start(shop.request(&[(KEY_NAME, KEY)])).await.unwrap();
        let answer = served(&host, "When are you open?").await;
        assert_eq!((answer.status, answer.json()["reply"].as_str()), (200, Some(reply)));
        assert_eq!(answer.json()["handed_off"].as_str(), handed_off);
        host.end(Ended::Code(0)).await.unwrap();
    }
    let shop = Shop::open("").await;
    let offline = ChatRequest { model: ModelMode::Offline, ..shop.request(&[]) };
    let host = ChatHost::start(offline).await.unwrap();
    assert_eq!(served(&host, "").await.json()["offline"], "offline model");
    host.end(Ended::Code(0)).await.unwrap();
}

/// Serves it for one request and ends in order; without a message the state is asked for.
async fn served(host: &ChatHost, message: &str) -> super::http::Answer {
    let opening = Opening {
        trusted_proxies: Vec::new(),
        architecture: None,
        metrics: MetricsPage::Shown,
        lines: Arc::new(|_| {}),
        grace: Duration::from_secs(10),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let (stop, stops) = watch::channel(false);
    let asked = async {
        let ask = if message.is_empty() { get("/api/state") } else { chat(message) };
        let answer = ask.send(to).await;
        stop.send_replace(true);
        answer
    };
    let (ended, answer) = tokio::join!(serve_host(host, opening, listener, stops), asked);
    ended.unwrap();
    answer
}

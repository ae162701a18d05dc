//! The chat on another site's page.

use carboy_core::chat::ChatSpec;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::world::{Made, World, spec};
use super::{browser, url};

/// A shop on another port: another origin, which is what `frame-ancestors` compares.
async fn shop(page: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 4096];
            let _ = stream.read(&mut asked).await;
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                page.len()
            );
            let _ = stream.write_all(format!("{head}{page}").as_bytes()).await;
        }
    });
    port
}

#[tokio::test]
async fn g90_one_script_tag_shows_the_chat_with_the_shops_colours_and_on_no_other_site() {
    let Some(browser) = browser("embedding").await else { return };
    // The shop's port has to be known before the chat's file names it, and the chat's before the shop's page does.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let page = format!(
        "<!doctype html><title>Shop</title><h1>Shop</h1><script src=\"http://127.0.0.1:{free}/static/embed.js\" data-title=\"Help\" \
         data-height=\"420\" data-accent=\"#7a1f5a\" data-radius=\"2\" data-background=\"red;}}*{{display:none\"></script>"
    );
    let listed = shop(page.clone()).await;
    let stranger = shop(page).await;
    let framed = ChatSpec { frame_ancestors: vec![format!("http://127.0.0.1:{listed}")], ..spec() };
    let world = World::made(Made { spec: framed, listen: format!("127.0.0.1:{free}"), ..Made::default() }).await;

    let tab = browser.page("about:blank").await;
    tab.call("Page.navigate", json!({"url": format!("http://127.0.0.1:{listed}/")})).await;
    tab.until("document.querySelector('iframe')?.title === 'Help'").await;
    tab.until("document.querySelector('iframe').contentDocument === null").await;
    assert_eq!(tab.text("document.querySelector('iframe').style.height").await, "420px");
    let source = tab.text("document.querySelector('iframe').src").await;

    // The same page by itself: the theme's values that hold are set, the others are not.
    let inside = browser.page(&source).await;
    let variable =
        |name: &str| format!("getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()");
    assert_eq!(inside.text(&variable("accent")).await, "#7a1f5a");
    assert_eq!(inside.text(&variable("radius")).await, "2px");
    assert_eq!(inside.text(&variable("background")).await, "#f5f3ee");
    assert_eq!(inside.text("document.getElementById('title').textContent").await, "Bookly");
    let before = browser.troubles();
    assert!(!before.iter().any(|line| line.contains("frame-ancestors")), "{before:?}");

    let other = browser.page("about:blank").await;
    other.call("Page.navigate", json!({"url": format!("http://127.0.0.1:{stranger}/")})).await;
    other.until("document.querySelector('iframe')").await;
    let refused = async {
        while !browser.troubles().iter().any(|line| {
            line.contains("frame-ancestors") || line.contains("refused to connect") || line.contains("Framing")
        }) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(super::super::http::PATIENCE, refused)
        .await
        .unwrap_or_else(|_| panic!("{:?}", browser.troubles()));
    assert!(url(&world).starts_with("http://127.0.0.1"));
    // The one that is no guest is told so, and nothing else is.
    browser.quiet(&["frame-ancestors", "refused to connect"]).await;
}
